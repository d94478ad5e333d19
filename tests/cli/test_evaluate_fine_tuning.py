"""`align-keras evaluate` with protocols that train: metrics and wrong inputs."""

import dataclasses
import json

import numpy as np
import pytest

from align_keras import load_model
from align_keras.cli.main import main
from align_keras.protocols import fine_tuning_protocols
from align_keras.protocols.cached_encoders import CachedEncoders
from align_keras.protocols.protocol import Request
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import GOLDEN
from tests.helpers.drawings import (
    BOTH,
    HEAD,
    draw,
    evaluate,
)


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
    assert "training 1 of 3 trials, results in" in messages


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
        with pytest.raises(InputError, match="The split is recorded"):
            fine_tuning_protocols.fine_grained(None, request)
    assert train_splits == ["train+validation", "train"]


# Wrong inputs


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["vtab"], "vtab needs data sets that TFDS"),
        (["fine_grained", "--data", "cars196"], "cars196 isn't prepared"),
        (
            ["vtab", "--workers", "2", "--params_override"]
            + ["runtime.distribution_strategy=one_device"],
            "--workers",
        ),
    ],
)
def test_wrong_inputs_are_refused(
    capsys, tmp_path, monkeypatch, small_model, arguments, message
):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    assert main(["evaluate", *arguments, "--model", str(small_model)]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_sweep_needs_a_validation_split(capsys, small_model, drawings):
    arguments = ["fine_grained", "--data", str(drawings)]
    override = ["--params_override", "sweep.trials=2"]
    assert main(["evaluate", *arguments, "--model", str(small_model), *override]) == 1
    assert "sweep.trials must be 0 for fine_grained" in capsys.readouterr().err


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
    assert "the same classes in both splits" in capsys.readouterr().err


def test_training_on_the_test_split_is_refused(capsys, drawings, small_model):
    arguments = ["fine_grained", "--data", str(drawings)]
    arguments += ["--train_split", "test"]
    assert main(["evaluate", *arguments, "--model", str(small_model)]) == 1
    assert "must have no image in common" in capsys.readouterr().err
