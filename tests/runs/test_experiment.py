"""Tests of the training, the evaluation and the opening of runs."""

import json
import pathlib
import re
import runpy
import shutil

import numpy as np
import pytest

import align_keras
from align_keras.config import load_config, resolve_config
from align_keras.data import read_retrieval_set
from align_keras.runs.run_corpora import find_shared_images, open_corpora
from align_keras.runs.session import explain_data_errors
from align_keras.text import wordpiece_tokenizer
from align_keras.utils.errors import InputError
from tests.helpers.docs_text import read_page
from tests.helpers.small_run import TINY, pairs_override, write_pairs

ROOT = pathlib.Path(__file__).parents[2]


def test_overrides_apply_to_names_paths_and_configurations(tmp_path):
    overrides = ["task.evaluation.ks=[1, 5]", {"trainer.train_steps": 800}]
    named = resolve_config("quickstart_icons", overrides)
    assert named == load_config("quickstart_icons", (), overrides)
    path = tmp_path / "params.yaml"
    path.write_text("trainer: {seed: 3}\n")
    assert resolve_config(path, "task.evaluation.ks=[1]").trainer.seed == 3
    config = load_config("quickstart_icons", params_override="task.evaluation.ks=[2]")
    assert resolve_config(config, ()) is config
    changed = resolve_config(config, {"trainer.seed": 7})
    assert changed.task == config.task
    assert changed.task.evaluation.ks == (2,)
    assert changed.trainer == config.trainer.model_copy(update={"seed": 7})


def test_input_errors_within_tensorflow_are_raised_again():
    task = load_config(params_override="task.train_data.source=a").task
    message = "{{node PyFunc}} InputError: The source changed.\nTrace"
    with pytest.raises(InputError, match="^The source changed.$"):
        with explain_data_errors(task):
            raise RuntimeError(message)


def test_only_finished_runs_are_opened(tmp_path):
    with pytest.raises(InputError, match="quickstart"):
        align_keras.open_run(tmp_path)
    (tmp_path / "params.yaml").write_text("{}")
    with pytest.raises(InputError, match=r"no config\.json.*`align-keras train"):
        align_keras.open_run(tmp_path)


@pytest.mark.ci
def test_a_finished_run_is_opened_evaluated_and_searched(finished_run):
    run = align_keras.open_run(finished_run)
    assert run.metrics["step"] == 4
    assert len(run.search("a red ring", k=3)) == 3
    evaluated = align_keras.evaluate_experiment(run.config, finished_run)
    assert evaluated.metrics == pytest.approx(run.evaluate())
    for name, value in evaluated.metrics.items():
        assert run.metrics[name] == pytest.approx(value, abs=1e-5)
    # The export has the weights of the run.
    export = align_keras.load_model(finished_run / "export")
    texts = ["a red ring", "a blue bar"]
    np.testing.assert_allclose(
        export.encode_texts(texts), run.model.encode_texts(texts), atol=1e-6
    )
    assert "data:image/" in (finished_run / "report.html").read_text("utf-8")


@pytest.mark.release
def test_the_script_of_the_tutorial_evaluates_and_exports_a_run(
    finished_run, tmp_path, capsys, monkeypatch
):
    script = ROOT / "docs/pages/tutorials/evaluate_and_export.py"
    pairs = finished_run.parent / "pairs" / "pairs.jsonl"
    arguments = [str(finished_run), str(pairs), str(tmp_path / "exported")]
    monkeypatch.setattr("sys.argv", [script.name, *arguments])
    runpy.run_path(str(script))
    metrics = re.compile(r"^([\w/]+): [\d.]+$", re.MULTILINE)
    printed_names = metrics.findall(capsys.readouterr().out)
    assert "t2i/recall_at_1" in printed_names
    assert printed_names == metrics.findall(read_page(script.with_suffix(".md")))


@pytest.mark.ci
def test_without_tensorflow_text_the_weights_of_the_run_embed_the_queries(
    finished_run, tmp_path, monkeypatch
):
    run = align_keras.open_run(shutil.copytree(finished_run, tmp_path / "run"))
    monkeypatch.setattr(wordpiece_tokenizer, "tf_text", None)
    align_keras.index_experiment(run.config, run.directory)
    assert not (run.directory / "export").exists()
    assert len(align_keras.open_run(run.directory).search("a red ring", k=3)) == 3


@pytest.mark.release
def test_a_run_refuses_changed_pairs_and_a_changed_vocabulary(tmp_path):
    table = write_pairs(tmp_path / "pairs")
    override = pairs_override(table, tmp_path / "data")
    config = load_config("quickstart_stamps", params_override=[override, TINY])
    run = align_keras.train_experiment(
        config, tmp_path / "run", with_evaluation=False
    ).directory
    longer = {"trainer.train_steps": 8}
    uses = (
        lambda: align_keras.train_experiment(config, run, params_override=longer),
        lambda: align_keras.evaluate_experiment(config, run),
    )

    rows = [json.loads(line) for line in table.read_text().splitlines()]
    captions = [row["caption"] for row in rows]
    rotated = [
        row | {"caption": caption}
        for row, caption in zip(rows, captions[1:] + captions[:1], strict=True)
    ]
    original = table.read_text()
    for changed, message in (
        (rotated, f"ids or pixels differ.* {len(rows)}"),
        (rows[:25], r"\d+ images .*now there are \d+"),
    ):
        table.write_text("".join(f"{json.dumps(row)}\n" for row in changed))
        for use in uses:
            with pytest.raises(InputError, match=message):
                use()
    table.write_text(original)

    path = run / "assets" / "tokenizer" / "vocabulary.txt"
    vocabulary = path.read_text()
    lines = vocabulary.splitlines(keepends=True)
    path.write_text("".join([*lines[:5], *lines[:4:-1]]))
    for use in uses:
        with pytest.raises(InputError, match="vocabulary"):
            use()
    for use in (
        lambda: align_keras.open_run(run).model,
        lambda: align_keras.index_experiment(config, run),
        lambda: align_keras.evaluate(run, "retrieval", str(table)),
    ):
        with pytest.raises(InputError, match="vocabulary"):
            use()
    # A removed vocabulary is learned again.
    path.unlink()
    resumed = align_keras.train_experiment(
        config, run, params_override=longer, with_evaluation=False
    )
    assert resumed.model is not None
    assert path.read_text() == vocabulary
    assert (run / "checkpoints" / "ckpt-8.index").exists()


def test_validation_images_that_are_training_images_are_reported(tmp_path):
    table = write_pairs(tmp_path / "pairs")
    lines = table.read_text().splitlines(keepends=True)
    files = {"train": lines[:30], "apart": lines[30:], "shared": lines[25:]}
    for name, rows in files.items():
        (table.parent / f"{name}.jsonl").write_text("".join(rows))
    for name, is_shared in (("apart", False), ("shared", True)):
        override = pairs_override(table.parent / "train.jsonl", tmp_path / "data")
        override["task.train_data.tfds_split"] = "all"
        override["task.validation_data.pairs"] = str(table.parent / f"{name}.jsonl")
        task = load_config("quickstart_stamps", params_override=override).task
        corpora = open_corpora(task, 64)
        split = task.validation_data.tfds_split
        validation_pairs = read_retrieval_set(corpora.validation, split)
        finding = find_shared_images(task, corpora, validation_pairs)
        if is_shared:
            expected = "5 of the 15 validation images"
            assert expected in finding.problem
        else:
            assert finding is None


def test_splits_that_were_made_in_other_ways_may_share_images(tmp_path):
    table = write_pairs(tmp_path / "pairs")
    override = pairs_override(table, tmp_path / "data")
    override["task.validation_data.split_by"] = "image_and_caption"
    task = load_config("quickstart_stamps", params_override=override).task
    corpora = open_corpora(task, 64)
    split = task.validation_data.tfds_split
    validation_pairs = read_retrieval_set(corpora.validation, split)
    finding = find_shared_images(task, corpora, validation_pairs)
    assert "validation images" in finding.problem
