"""Protocol vtab: its tasks, its sweep and its metrics."""

import pathlib
import re
from unittest import mock

import numpy as np
import pytest

from align_keras.config import load_recipe
from align_keras.datasets.benchmarks import LabeledImages
from align_keras.protocols import fine_tuning_protocols, trials
from align_keras.protocols.protocol import Request
from align_keras.protocols.run_protocol import sliced
from align_keras.utils.errors import InputError
from tests.helpers.drawings import evaluate
from tests.helpers.small_benchmarks import create_unprepared_builder


# Eight trials trace their graphs, which takes more than 10 minutes on a busy machine.
@pytest.mark.timeout(3600)
@pytest.mark.release
def test_vtab_runs_on_mock_data(capsys, tmp_path, small_model):
    import tensorflow_datasets as tfds

    from align_keras.datasets import benchmarks
    from align_keras.datasets.benchmarks import tfds_images
    from align_keras.datasets.benchmarks import vtab as vtab_reader

    override = (
        # Only the head is trained, because its graph is traced faster.
        "full.steps=null,head.steps=1,head.train_size=32,head.eval_size=32,"
        "runs=2,sweep.trials=2,sweep.steps=[1],sweep.batch_size=[4]"
    )
    with (
        tfds.testing.mock_data(num_examples=6),
        mock.patch.object(benchmarks, "prepared_builder", create_unprepared_builder),
        mock.patch.object(vtab_reader, "prepared_builder", create_unprepared_builder),
        mock.patch.object(tfds_images, "prepared_builder", create_unprepared_builder),
    ):
        result, messages = evaluate(
            capsys,
            "vtab",
            "--model",
            small_model,
            "--data",
            "vtab/svhn_cropped+dsprites_label_orientation",
            "--results",
            tmp_path / "results",
            "--params_override",
            override,
            "--slice_by",
            "class",
        )
        table = tmp_path / "metadata.csv"
        table.write_text("id,location\nsvhn_cropped/0,in\nsvhn_cropped/1,out\n")
        sliced_result, _ = evaluate(
            capsys,
            "vtab",
            "--model",
            small_model,
            "--data",
            "vtab/svhn_cropped",
            "--results",
            tmp_path / "results",
            "--params_override",
            override,
            "--slice_by",
            "location",
            "--metadata",
            table,
        )
    # Each of the 2 tasks has 2 trials and 2 runs.
    assert len(list((tmp_path / "results").glob("*.json"))) == 8
    assert "best of 2 trials" in messages
    assert set(result["metrics"]) == {
        f"vtab/{task}{suffix}"
        for task in ("svhn_cropped", "dsprites_label_orientation")
        for suffix in ("", "_std")
    }
    # The accuracy of a task is the mean of its slices, weighted by their sizes.
    for slices, task in (
        (result["slices"], "svhn_cropped"),
        (result["slices"], "dsprites_label_orientation"),
        (sliced_result["slices"], "svhn_cropped"),
    ):
        parts = [name for name in slices if name.startswith(f"vtab/{task}[")]
        accuracies = [
            (slices[name], slices[f"{name}/items"]) for name in parts if name[-1] == "]"
        ]
        num_correct = sum(accuracy * items for accuracy, items in accuracies)
        num_images = sum(items for _, items in accuracies)
        assert num_correct / num_images == pytest.approx(
            result["metrics"][f"vtab/{task}"]
        )
    assert sliced_result["slices"]["vtab/svhn_cropped[in]/items"] == 1


def test_the_best_trial_is_trained_again_and_averaged(monkeypatch):
    """The recipe of the final runs and the metrics match a calculation."""
    requested_trials = []

    def run_trials(trials_to_run, data, model, request, strategy=None):
        requested_trials.append(trials_to_run)
        if trials_to_run[0].test_split == "val200":
            # The second and the third trial of each task are equally good.
            number = [0, 1, 2] * (len(trials_to_run) // 3)
            ranks = [[[1, 1, 0], [0, 0, 1], [0, 1, 0]][n] for n in number]
        else:
            ranks = [
                [0] * trial.seed + [1] * (4 - trial.seed) for trial in trials_to_run
            ]
        return [{"ranks": trial_ranks, "left_out": []} for trial_ranks in ranks]

    monkeypatch.setattr(trials, "finished", run_trials)
    monkeypatch.setattr(fine_tuning_protocols.VtabData, "check", lambda *_: None)
    test_images = LabeledImages(list("abcd"), np.array([0, 0, 1, 1]), ["one", "two"])
    monkeypatch.setattr(
        fine_tuning_protocols.VtabData, "test_images", lambda *_: test_images
    )
    override = ("sweep.trials=3,runs=3",)
    request = Request("vtab", params_override=override, slice_by="class")
    evaluation = fine_tuning_protocols.vtab(mock.Mock(), request)
    sweep_trials, final_trials = requested_trials
    assert len(sweep_trials) == 19 * 3 and len(final_trials) == 19 * 3
    best_recipe = trials.swept_recipe(load_recipe("vtab"), 1)
    assert {trial.recipe.full.learning_rate for trial in final_trials} == {
        best_recipe.full.learning_rate
    }
    assert [trial.seed for trial in final_trials[:3]] == [0, 1, 2]
    assert {(trial.train_split, trial.test_split) for trial in final_trials} == {
        ("train800val200", "test")
    }
    # The accuracies of the three runs are 0, 1/4 and 1/2.
    for name in ("dtd", "all", "natural", "specialized", "structured"):
        assert evaluation.metrics[f"vtab/{name}"] == pytest.approx(0.25)
        assert evaluation.metrics[f"vtab/{name}_std"] == pytest.approx(0.25)
    # The runs classify none, the first, and the first two of the images correctly.
    slices = sliced(evaluation, "class")
    for name in evaluation.metrics:
        if not name.endswith("_std"):
            assert slices[f"{name}[one]"] == pytest.approx(0.5)
            assert slices[f"{name}[two]"] == 0
    assert slices["vtab/all[one]/items"] == 2 * 19


def test_the_commands_of_the_recipe_name_existing_tasks():
    recipes = pathlib.Path(__file__).parents[2] / "experiments"
    text = (recipes / "evaluation" / "vtab.yaml").read_text()
    task_names = re.findall(r"vtab/[\w+]+", text)
    assert [fine_tuning_protocols.vtab_tasks(name) for name in task_names] == [
        ["dtd", "svhn_cropped"]
    ]


def test_vtab_lists_the_data_sets_to_prepare(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds")
    )

    def check_error(*tasks):
        with pytest.raises(InputError, match="vtab needs .*vtab/dtd") as caught:
            fine_tuning_protocols.VtabData(Request("vtab")).check(tasks)
        return str(caught.value)

    # Two tasks use the data set dSprites.
    message = check_error(
        "dtd", "dsprites_label_orientation", "dsprites_label_x_position"
    )
    assert "2 of 2 data sets" in message
    assert "tfds build dtd dsprites," in message
    assert "by hand" not in message
    message = check_error("dtd", "resisc45", "svhn_cropped")
    assert "3 of 3" in message
    assert "files of resisc45 by hand" in message
    # The message about a single data set has its folder, or the instructions of TFDS.
    assert str(tmp_path / "tfds") in check_error("dtd")
    assert "downloads/manual" in check_error("resisc45")
