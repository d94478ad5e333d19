"""Tests of runs with options of the losses and of the captions."""

import json

import pytest

from align_keras import load_model
from align_keras.cli.main import main
from align_keras.runs.finished_run import open_run
from tests.helpers.small_run import SMALL, write_pairs

LOSS = ",".join(
    [
        "task.loss.type=sigmoid",
        "task.loss.sigmoid.tile_size=3",
        "task.loss.sigmoid.share_equal_images=true",
        "task.loss.matryoshka.widths=[4]",
        "task.train_data.pair_weighted=true",
    ]
)


@pytest.mark.release
def test_a_run_trains_and_measures_several_widths(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "known"))
    pairs = write_pairs(tmp_path / "pairs")
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    # Each image has a second caption.
    seconds = [{**line, "caption": line["caption"] + " drawing"} for line in lines]
    pairs.write_text("\n".join(map(json.dumps, lines + seconds)) + "\n")
    overrides = [
        SMALL,
        LOSS,
        "task.train_data.corpus=pairs",
        "task.validation_data.corpus=pairs",
        f"task.train_data.pairs={pairs}",
        f"task.validation_data.pairs={pairs}",
        f"task.train_data.tfds_data_dir={tmp_path}/data",
        f"task.validation_data.tfds_data_dir={tmp_path}/data",
        "task.validation_data.tfds_split=test",
    ]
    folder = tmp_path / "run"
    command = ["train", "--mode", "train_and_eval", "--model_dir", str(folder)]
    assert main([*command, "--params_override", ",".join(overrides)]) == 0
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    first = logged[0]
    assert first["loss"] == pytest.approx(first["loss_4"] + first["loss_16"], rel=1e-5)
    metrics = open_run(folder).metrics
    for direction in ("t2i", "i2t"):
        assert 0 <= metrics[f"width_4/{direction}/recall_at_1"] <= 1
    assert load_model(folder, dimensions=4).encode_texts(["red"]).shape == (1, 4)


@pytest.mark.release
def test_a_run_trains_with_caption_sources(tmp_path, capsys):
    pairs = write_pairs(tmp_path / "pairs")
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    for line in lines:
        line["alt"] = line.pop("caption")
        line["synthetic"] = f"drawing of {line['alt']}"
    pairs.write_text("\n".join(map(json.dumps, lines)) + "\n")
    steps = ("train_steps", "checkpoint_interval", "validation_interval")
    overrides = [
        SMALL,
        *(f"trainer.{name}=4" for name in steps),
        f"task.train_data.pairs={pairs}",
        f"task.validation_data.pairs={pairs}",
        f"task.train_data.tfds_data_dir={tmp_path}/data",
        f"task.validation_data.tfds_data_dir={tmp_path}/data",
        "task.validation_data.tfds_split=test",
        "task.train_data.caption_sources={alt: 0.7, synthetic: 0.3}",
        "task.loss.contrastive.share_equal_images=true",
    ]
    folder = tmp_path / "run"
    command = ["train", "--mode", "train_and_eval", "--model_dir", str(folder)]
    assert main([*command, "--params_override", ",".join(overrides)]) == 0
    # Each validation image has a caption of both sources.
    assert "6 images with 12 captions" in capsys.readouterr().err
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert all(0 < line["loss"] < 20 for line in logged if "loss" in line)
