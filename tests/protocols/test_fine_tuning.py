"""Protocols that train: identity of the data, metrics, trials and wrong inputs."""

import dataclasses
import io
import json
import shutil
from unittest import mock

import numpy as np
import pytest

from align_keras import load_model
from align_keras.cli.main import main
from align_keras.config import load_recipe
from align_keras.datasets.benchmarks import LabeledImages, read_shard_classes
from align_keras.protocols import fine_tuning_protocols
from align_keras.protocols.cached_encoders import CachedEncoders
from align_keras.protocols.protocol import Request
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import GOLDEN
from tests.helpers.drawings import BOTH, HEAD, draw, evaluate
from tests.helpers.public_benchmarks import write_class_shards


def test_changed_images_change_the_identity_of_the_data(tmp_path):
    def identity():
        request = Request(str(tmp_path))
        return fine_tuning_protocols.ClassificationData(request).identity("")

    for split in ("train", "test"):
        for label, name in enumerate("ab"):
            (tmp_path / split / name).mkdir(parents=True)
            draw(label, 0).save(tmp_path / split / name / "1.png")
    first = identity()
    assert identity() == first
    draw(0, 7).save(tmp_path / "train" / "a" / "1.png")
    changed = identity()
    assert changed[:3] != first[:3]
    assert changed[3:] == first[3:]
    draw(0, 7).save(tmp_path / "test" / "b" / "2.png")
    assert identity()[3:] != first[3:]


def test_a_folder_of_clip_benchmark_has_an_identity(tmp_path):
    """Writes the shards again with another training image."""

    def write(split, *seeds):
        images = [draw(label, seed) for label, seed in enumerate(seeds)]
        shutil.rmtree(tmp_path / split, ignore_errors=True)
        write_class_shards(tmp_path, images, [0, 1], ["a", "b"], ["{c}"], split=split)

    def identity():
        request = Request(str(tmp_path))
        return fine_tuning_protocols.ClassificationData(request).identity("")

    write("train", 0, 1)
    write("test", 2, 3)
    first = identity()
    assert identity() == first
    write("train", 0, 7)
    changed = identity()
    assert changed[:3] != first[:3]
    assert changed[3:] == first[3:]


@pytest.mark.ci
def test_damaged_images_of_shards_are_counted(tmp_path, capsys):
    images = [draw(label, 0) for label in range(2)]
    for split in ("train", "test"):
        write_class_shards(tmp_path, images, [0, 1], ["a", "b"], ["{c}"], split=split)
    [span, _] = read_shard_classes(tmp_path, "train").images.spans
    with open(span.path, "r+b") as file:
        file.seek(span.offset)
        file.write(b"no image")
    data = fine_tuning_protocols.ClassificationData(Request(str(tmp_path)))
    assert data.check() == 1
    assert "1 of 2 training images" in capsys.readouterr().err


def draw_png(label, seed):
    file = io.BytesIO()
    draw(label, seed).save(file, "png")
    return file.getvalue()


def draw_pixels(label, seed):
    return np.asarray(draw(label, seed))


@pytest.mark.parametrize("draw_image", [draw_png, draw_pixels])
def test_changed_images_in_memory_change_the_digest_of_the_data(draw_image):
    def digest(*seeds):
        images = [draw_image(label, seed) for label, seed in enumerate(seeds)]
        data = LabeledImages(images, np.arange(2), ["a", "b"])
        return fine_tuning_protocols.digest_of(data)

    assert digest(0, 1) == digest(0, 1)
    assert len({digest(0, 1), digest(0, 2), digest(1, 1)}) == 3


def test_the_identity_of_tfds_data_includes_version_and_split(monkeypatch):
    """Images of TFDS aren't hashed, and all labels are equal in this test."""

    def identity(name="food101:2.0.0", **options):
        request = Request(name, **options)
        data = fine_tuning_protocols.ClassificationData(request)
        stream = mock.MagicMock(__len__=lambda _: 2)
        images = LabeledImages(stream, np.arange(2), ["a", "b"])
        monkeypatch.setattr(data, "read", lambda task, split: images)
        return json.dumps(data.identity(""))

    monkeypatch.setattr(
        "align_keras.datasets.benchmarks.tfds_images.prepared_builder",
        lambda name: mock.Mock(info=mock.Mock(full_name=name.replace(":", "/"))),
    )
    assert identity() == identity()
    assert "food101/2.0.0" in identity()
    changed_identities = [
        identity("food101:3.0.0"),
        identity(train_split="train[:50%]"),
        identity(train_split="train[50%:]"),
        identity(split="validation[:9]"),
    ]
    assert len({identity(), *changed_identities}) == 5


def test_trials_run_again_for_another_version(tmp_path, monkeypatch):
    from align_keras.protocols import trials

    completed_runs = []

    def run(trial, scratch):
        completed_runs.append(trial)
        return {"ranks": [0]}

    monkeypatch.setattr(trials, "TrialRunner", lambda *_: run)
    one_trial = [trials.Trial("", "train", "test", load_recipe("fine_grained"), 0)]
    data = mock.Mock(identity=lambda task: "d")
    model = mock.Mock(image_fingerprint="m")
    request = Request(results=str(tmp_path))

    def finished():
        return trials.finished(one_trial, data, model, request)

    assert finished() == finished() == [{"ranks": [0]}]
    assert len(completed_runs) == 1
    monkeypatch.setattr(trials, "TRIALS_VERSION", 0)
    assert finished() == [{"ranks": [0]}]
    assert len(completed_runs) == 2


@pytest.mark.release
def test_fine_grained_metrics_match_the_stored_ranks(
    capsys, tmp_path, drawings, small_model
):
    arguments = [
        "fine_grained",
        "--model",
        small_model,
        "--data",
        drawings,
    ]
    arguments += ["--results", tmp_path / "results", "--params_override", HEAD]
    result, messages = evaluate(capsys, *arguments, "--slice_by", "class")
    metrics = result["metrics"]
    assert set(metrics) == {
        "top_1",
        "top_1_std",
        "mean_per_class",
        "images",
        "classes",
        "images_left_out",
        "training_images_left_out",
    }
    assert (metrics["images"], metrics["classes"]) == (15, 3)
    assert metrics["images_left_out"] == 1
    assert metrics["training_images_left_out"] == 1
    assert (
        "train/bars/12.png" in messages
        and "training 2 of 2 trials, results in" in messages
    )
    # The metrics match a calculation from the stored ranks.
    stored_results = [
        json.loads(path.read_text())["result"]
        for path in (tmp_path / "results").glob("*.json")
    ]
    assert len(stored_results) == 2
    accuracies = [
        np.mean([rank == 0 for rank in trial_result["ranks"]])
        for trial_result in stored_results
    ]
    assert metrics["top_1"] == pytest.approx(np.mean(accuracies))
    assert metrics["top_1_std"] == pytest.approx(np.std(accuracies, ddof=1))
    by_class = [
        result["slices"][f"top_1[{name}]"] for name in ("bars", "plain", "rings")
    ]
    assert metrics["mean_per_class"] == pytest.approx(np.mean(by_class))
    bar_accuracies = [
        result["slices"][f"{name}[bars]"] for name in ("top_1", "mean_per_class")
    ]
    assert bar_accuracies[0] == pytest.approx(bar_accuracies[1])

    # A second run trains nothing and writes a page. A metadata table with the classes
    # gives the same slices.
    page, table = tmp_path / "page.html", tmp_path / "metadata.csv"
    image_names = [
        path.relative_to(drawings / "test") for path in drawings.glob("test/*/*.png")
    ]
    table.write_text(
        "id,kind\n" + "".join(f"{name},{name.parent}\n" for name in image_names)
    )
    sliced = ("--metadata", table, "--slice_by", "kind")
    second_result, messages = evaluate(capsys, *arguments, *sliced, "--html", page)
    assert (
        second_result["metrics"] == metrics
        and second_result["slices"] == result["slices"]
    )
    assert "trials, results in" not in messages
    assert "rings" in page.read_text(encoding="utf-8")

    # A third run adds one trial.
    three_runs = [*arguments[:-1], HEAD.replace("runs=2", "runs=3")]
    _, messages = evaluate(capsys, *three_runs)
    assert "1 of 3 trials" in messages


@pytest.mark.release
def test_both_stages_of_fine_grained_run(capsys, tmp_path, drawings, small_model):
    result, messages = evaluate(
        capsys,
        "fine_grained",
        "--model",
        small_model,
        "--data",
        drawings,
        "--results",
        tmp_path,
        "--params_override",
        BOTH,
    )
    assert 0 <= result["metrics"]["top_1"] <= 1
    # One run has no standard deviation.
    assert "top_1_std" not in result["metrics"]


@pytest.mark.ci
def test_a_classifier_on_a_frozen_encoder_learns(
    capsys, tmp_path, drawings, small_model
):
    override = (
        "batch_size=36,head.epochs=null,head.steps=60,head.schedule=constant,"
        "head.learning_rate=0.1,crop=whole,flip=false,"
        "head.train_size=32,head.eval_size=32"
    )
    result, _ = evaluate(
        capsys,
        "imagenet_frozen",
        "--model",
        small_model,
        "--data",
        drawings,
        "--results",
        tmp_path,
        "--params_override",
        override,
    )
    # The accuracy by chance is 1/3. The weights of the encoder are random.
    assert result["metrics"]["top_1"] > 0.5


@pytest.mark.parametrize("name", ["oxford_flowers102", "oxford_flowers102:2.1.1"])
def test_flowers_are_learned_from_both_splits(monkeypatch, name):
    train_splits = []

    def record_split(request):
        train_splits.append(request.train_split)
        raise InputError("The split is recorded.")

    monkeypatch.setattr(fine_tuning_protocols, "ClassificationData", record_split)
    default_request = Request(name)
    train_request = dataclasses.replace(default_request, train_split="train")
    for request in (default_request, train_request):
        with pytest.raises(InputError, match="split is recorded"):
            fine_tuning_protocols.fine_grained(None, request)
    assert train_splits == ["train+validation", "train"]


def test_a_sweep_needs_a_validation_split(capsys, small_model, drawings):
    arguments = ["fine_grained", "--data", str(drawings)]
    override = ["--params_override", "sweep.trials=2"]
    assert main(["evaluate", *arguments, "--model", str(small_model), *override]) == 1
    assert "sweep.trials" in capsys.readouterr().err


def test_an_export_cannot_be_trained(tmp_path):
    encoders = CachedEncoders(lambda: load_model(GOLDEN), tmp_path)
    with pytest.raises(InputError, match="export"):
        encoders.trainable_model()


def test_both_splits_must_have_the_same_classes(capsys, tmp_path, small_model):
    for split, names in (("train", "ab"), ("test", "ac")):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            draw(0, 0).save(tmp_path / split / name / "1.png")
    arguments = ["fine_grained", "--data", str(tmp_path)]
    assert main(["evaluate", *arguments, "--model", str(small_model)]) == 1
    error = capsys.readouterr().err
    assert "2 classes in the training" in error and "2 in the test" in error


def test_training_on_the_test_split_is_refused(capsys, drawings, small_model):
    arguments = ["fine_grained", "--data", str(drawings)]
    arguments += ["--train_split", "test"]
    assert main(["evaluate", *arguments, "--model", str(small_model)]) == 1
    error = capsys.readouterr().err
    assert "--train-split and --split" in error and "test and test" in error
