"""Fine-tuning from a table of pairs to a searchable folder with a report."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import align_keras
from align_keras.cli.main import main
from align_keras.config import load_config
from align_keras.reports.finetune_report import CurvePoint
from align_keras.text.vocabulary import SPECIAL_TOKENS
from align_keras.utils.errors import InputError
from tests.helpers.align_folders import tiny_align
from tests.helpers.small_run import COLORS, SHAPES, SMALL, draw, write_pairs

SIZES = f"{SMALL},task.model.image_encoder.num_stages=1"
SHORT = (
    "finetune.projection_epochs=1,finetune.blocks=1,finetune.blocks_epochs=1,"
    "finetune.factors=[0,0.5,1],finetune.max_forgetting=1"
)
CAPTIONS = ["a red circle", "a blue bar"]
IMAGES = [np.asarray(draw("red", "circle")), np.asarray(draw("blue", "bar"))]


def write_base(folder):
    """Writes a preset to fine-tune."""
    from align_keras.runs.model_from_config import build_model

    vocabulary = [*SPECIAL_TOKENS, "a", *COLORS, *SHAPES]
    model = build_model(load_config(params_override=SIZES).task.model, vocabulary)
    model.save_to_preset(folder)


def write_old_task(folder):
    folder.mkdir()
    lines = []
    for shape in SHAPES:
        draw("pink", shape).save(folder / f"{shape}.png")
        lines.append(json.dumps({"image": f"{shape}.png", "caption": f"pink {shape}"}))
    (folder / "old.jsonl").write_text("\n".join(lines), "utf-8")
    return folder / "old.jsonl"


def words(folder, out):
    """Returns the words of the command that fine-tunes in a folder of inputs."""
    data = folder / "data"
    return [
        "finetune",
        f"--model={folder / 'base'}",
        f"--pairs={folder / 'pairs' / 'pairs.jsonl'}",
        f"--old-task={folder / 'old' / 'old.jsonl'}",
        f"--out={folder / out}",
        f"--params_override={SHORT}",
        f"--params_override=task.train_data.tfds_data_dir={data}",
        f"--params_override=task.validation_data.tfds_data_dir={data}",
    ]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    write_base(folder / "base")
    write_pairs(folder / "pairs")
    write_old_task(folder / "old")
    return folder


def embeddings(folder):
    model = align_keras.load_model(folder)
    return np.concatenate([model.encode_images(IMAGES), model.encode_texts(CAPTIONS)])


@pytest.mark.ci
def test_a_fine_tuning_writes_a_folder_that_opens_everywhere(inputs, capsys):
    assert main(words(inputs, "run")) == 0
    printed = capsys.readouterr().out
    assert "Your test pairs" in printed and "Old task" in printed
    folder = inputs / "run"
    rows = embeddings(folder)
    # The model differs from the base unless the validation pairs chose the factor 0.
    results = json.loads((folder / "finetune.json").read_text())
    is_base = np.allclose(rows, embeddings(inputs / "base"), atol=1e-6)
    assert is_base == (results["factor"] == 0.0)
    assert [point["factor"] for point in results["curve"]] == [0.0, 0.5, 1.0]
    for changes in results["changes"].values():
        assert len(changes) == 6
        for change in changes:
            difference = change["after"][0] - change["before"][0]
            assert change["change"][0] == pytest.approx(difference)
            assert change["change"][1] <= change["change"][0] <= change["change"][2]

    run = align_keras.open_run(folder)
    test = run.read_validation_pairs()
    assert len(test) == results["changes"]["Your test pairs"][0]["queries"] == 6
    assert run.evaluate()["t2i/recall_at_10"] == pytest.approx(
        run.metrics["t2i/recall_at_10"]
    )
    assert run.metrics["t2i/recall_at_1"] == pytest.approx(
        results["changes"]["Your test pairs"][0]["after"][0]
    )
    # All images are indexed, and those of the test pairs are found by their captions.
    assert {hit.path for hit in run.search(CAPTIONS[0], k=40)} >= set(test.ids)
    page = (folder / "report.html").read_text("utf-8")
    for text in (
        "Recall before and after",
        "95% intervals",
        "Old task",
        "Next steps",
        "align-keras push",
        "Recall by the factor",
    ):
        assert text in page


@pytest.mark.ci
def test_a_teacher_trains_a_model_with_8_bit_files(inputs, monkeypatch, capsys):
    pytest.importorskip("litert_quantizer")
    monkeypatch.setenv("XDG_CACHE_HOME", str(inputs / "cache"))
    command = [*words(inputs, "taught"), "--teacher=align_small_en"]
    assert main(command) == 0
    folder = inputs / "taught"
    stage = (folder / "stages" / "2_last_blocks" / "metrics.jsonl").read_text()
    losses = [json.loads(line).get("loss_similarity") for line in stage.splitlines()]
    assert any(loss and loss > 0 for loss in losses)
    student = align_keras.load_model(folder / "litert", "litert")
    rows = student.encode_texts(CAPTIONS)
    expected = embeddings(folder)[len(IMAGES) :]
    assert (rows * expected).sum(axis=1).min() > 0.9

    path = folder / "inputs.json"
    teacher = align_keras.load_model("align_small_en").fingerprint
    assert json.loads(path.read_text())["teacher"] == teacher
    path.write_text(path.read_text().replace(teacher, "0" * 16))
    assert main(command) == 1
    assert "distillation.teacher" in capsys.readouterr().err


@pytest.mark.ci
def test_a_teacher_captions_images_without_captions(
    inputs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(inputs / "cache"))
    images = tmp_path / "images"
    write_pairs(images)
    (images / "pairs.jsonl").unlink()
    (images / "red_ring.txt").write_text("my ring")
    queries = tmp_path / "queries.txt"
    colors = [f"a {color} shape" for color in COLORS]
    queries.write_text("\n".join([*colors, "", colors[0]]))
    command = [word for word in words(inputs, "texts") if "--pairs" not in word]
    command += [f"--pairs={images}", f"--texts={queries}"]
    assert main(command) == 1
    assert "--teacher" in capsys.readouterr().err
    assert main([*command, "--teacher=align_small_en"]) == 0

    folder = inputs / "texts"
    lines = (folder / "captioned.jsonl").read_text().splitlines()
    captions = {line["image"]: line["caption"] for line in map(json.loads, lines)}
    assert len(captions) == 40
    assert captions.pop(str(images / "red_ring.png")) == ["my ring"]
    teacher = align_keras.load_model("align_small_en")
    scores = teacher.encode_images(list(captions)) @ teacher.encode_texts(colors).T
    assert [[colors[row.argmax()]] for row in scores] == list(captions.values())
    results = json.loads((folder / "finetune.json").read_text())
    assert results["changes"]["Your test pairs"][0]["queries"] > 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--texts=empty.txt", "--texts must be a file with a text in each line"),
        ("--texts=none.txt", "none.txt"),
    ],
)
def test_wrong_texts_are_refused(inputs, tmp_path, capsys, option, message):
    (tmp_path / "empty.txt").write_text("\n \n")
    option = option.replace("=", f"={tmp_path}/")
    command = [*words(inputs, "wrong"), "--teacher=align_small_en", option]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_missing_teacher_is_refused(inputs, capsys):
    command = [*words(inputs, "missing"), "--teacher=no_teacher"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "task.distillation.teacher" in error and "no_teacher" in error
    assert error.count("\n") == 1
    assert not (inputs / "missing").exists()


@pytest.mark.release
def test_a_checkpoint_of_hugging_face_is_fine_tuned(inputs, hub_stub):
    """The repository has the files of kakaobrain/align-base, with a tiny model."""
    hub_stub.add_model("user/align", tiny_align())
    command = ["--model=hf://user/align", *words(inputs, "hub")[2:]]
    assert main(["finetune", *command]) == 0
    folder = inputs / "hub"
    results = json.loads((folder / "finetune.json").read_text())
    rows = embeddings(folder)
    is_base = np.allclose(rows, embeddings("hf://user/align"), atol=1e-6)
    assert is_base == (results["factor"] == 0.0)
    assert align_keras.open_run(folder).search("a red circle", k=1)


@pytest.mark.release
def test_a_finished_fine_tuning_is_not_trained_again(inputs, capsys):
    assert main(words(inputs, "again")) == 0
    folder = inputs / "again"
    rows = embeddings(folder)
    stage = folder / "stages" / "2_last_blocks" / "metrics.jsonl"
    stage_lines = stage.read_bytes()
    assert main(words(inputs, "again")) == 0
    assert stage.read_bytes() == stage_lines
    np.testing.assert_array_equal(embeddings(folder), rows)
    capsys.readouterr()
    assert main([*words(inputs, "again"), "--params_override=trainer.seed=1"]) == 1
    assert "trainer.seed" in capsys.readouterr().err


def test_an_export_is_refused(tmp_path, capsys):
    (tmp_path / "pairs.csv").write_text("image,caption\n")
    for name in ("image.tflite", "text.tflite"):
        (tmp_path / name).write_bytes(b"")
    table = str(tmp_path / "pairs.csv")
    command = ["finetune", "--model", str(tmp_path), "--pairs", table]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert "a preset" in capsys.readouterr().err


def test_the_model_is_not_replaced(inputs, capsys):
    before = (inputs / "base" / "model.weights.h5").read_bytes()
    assert main(words(inputs, "base")) == 1
    assert "--out" in capsys.readouterr().err
    assert (inputs / "base" / "model.weights.h5").read_bytes() == before
    assert not (inputs / "base" / "params.yaml").exists()


@pytest.mark.ci
def test_three_pairs_are_too_few(inputs, tmp_path, capsys):
    table = write_pairs(tmp_path / "pairs")
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:3]))
    command = [word for word in words(inputs, "few") if "--pairs" not in word]
    assert main([*command, f"--pairs={table}"]) == 1
    assert "Received: 1 images" in capsys.readouterr().err


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="none.csv"):
        align_keras.finetune(pairs=tmp_path / "none.csv")


def test_the_section_and_the_data_must_fit():
    model = {"finetune.model": "align_small_en"}
    for overrides, message in (
        ({"finetune.factors": [0.0, 0.5]}, "finetune.factors'.* 0 and 1"),
        ({"finetune.factors": [1.0, 0.0]}, "increasing"),
        ({"task.train_data.pairs": "other.csv"}, "pairs'.*same for training"),
        ({"task.validation_data.split_by": "image"}, "image_and_caption"),
        ({"task.train_data.tfds_split": "train+test"}, "train for fine-tuning"),
    ):
        with pytest.raises(InputError, match=message):
            load_config("own_pairs", params_override=[model, overrides])


def test_a_fine_tuning_has_one_mode(tmp_path):
    with pytest.raises(InputError, match="mode"):
        align_keras.train_experiment(
            "own_pairs", tmp_path / "run", with_evaluation=False
        )


def test_the_factor_is_the_best_one_that_forgets_little():
    from align_keras.runs.finetuning_results import choose_factor

    curve = [
        CurvePoint(0.0, 0.2, 0.50),
        CurvePoint(0.2, 0.4, 0.49),
        CurvePoint(0.4, 0.4, 0.51),
        CurvePoint(1.0, 0.9, 0.40),
    ]
    assert choose_factor(curve, max_forgetting=0.01) == 0.2
    assert choose_factor(curve, max_forgetting=0.2) == 1.0
    without_old_task = [CurvePoint(point.factor, point.recall) for point in curve]
    assert choose_factor(without_old_task, max_forgetting=0.01) == 1.0


@pytest.mark.release
@pytest.mark.parametrize(
    ("seed", "options"), [(0, []), (1, []), (2, ["--teacher=align_small_en"])]
)
def test_a_killed_fine_tuning_ends_with_the_same_weights(inputs, seed, options):
    whole = f"whole_{len(options)}"

    def run(out, seconds=None):
        command = [*words(inputs, out), *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "align_keras.cli.main", *command],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if seconds is not None:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        return process.wait(timeout=900)

    start = time.monotonic()
    if not (inputs / whole / "report.html").exists():
        assert run(whole) == 0
    seconds = time.monotonic() - start
    numbers = random.Random(seed)
    out = f"killed_{seed}"
    for _ in range(4):
        run(out, numbers.uniform(0.1, 1.0) * max(seconds, 20.0))
    assert run(out) == 0
    np.testing.assert_array_equal(embeddings(inputs / out), embeddings(inputs / whole))
    first, second = (
        json.loads((inputs / name / "finetune.json").read_text())
        for name in (out, whole)
    )
    assert first == second
