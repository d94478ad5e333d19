"""VTAB through the command line."""

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
from tests.cli.evaluated import unprepared
from tests.helpers.drawings import evaluate


@pytest.mark.release
def test_vtab_on_mock_data(capsys, tmp_path, small_model):
    import tensorflow_datasets as tfds

    from align_keras.datasets import benchmarks
    from align_keras.datasets.benchmarks import labeled_images
    from align_keras.datasets.benchmarks import vtab as vtab_reader

    override = (
        # The head alone, which is quicker to trace.
        "full.steps=null,head.steps=1,head.train_size=32,head.eval_size=32,"
        "runs=2,sweep.trials=2,sweep.steps=[1],sweep.batch_size=[4]"
    )
    with (
        tfds.testing.mock_data(num_examples=6),
        mock.patch.object(benchmarks, "prepared_builder", unprepared),
        mock.patch.object(vtab_reader, "prepared_builder", unprepared),
        mock.patch.object(labeled_images, "prepared_builder", unprepared),
    ):
        found, messages = evaluate(
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
        table.write_text("id,place\nsvhn_cropped/0,in\nsvhn_cropped/1,out\n")
        again, _ = evaluate(
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
            "place",
            "--metadata",
            table,
        )
    # 2 tasks of 2 trials, and 2 runs each.
    assert len(list((tmp_path / "results").glob("*.json"))) == 8
    assert "svhn_cropped: the best of 2 trials has" in messages
    assert set(found["metrics"]) == {
        f"vtab/{task}{end}"
        for task in ("svhn_cropped", "dsprites_label_orientation")
        for end in ("", "_std")
    }
    # By class, and by a table: each task's accuracy is that of its parts together.
    for slices, task in (
        (found["slices"], "svhn_cropped"),
        (found["slices"], "dsprites_label_orientation"),
        (again["slices"], "svhn_cropped"),
    ):
        parts = [name for name in slices if name.startswith(f"vtab/{task}[")]
        shares = [
            (slices[own], slices[f"{own}/items"]) for own in parts if own[-1] == "]"
        ]
        right = sum(share * items for share, items in shares)
        count = sum(items for _, items in shares)
        assert right / count == pytest.approx(found["metrics"][f"vtab/{task}"])
    assert again["slices"]["vtab/svhn_cropped[in]/items"] == 1


def test_vtab_takes_the_best_trial_and_averages(monkeypatch):
    """Which recipe is trained again, and the figures, by hand."""
    asked = []

    def finished(chosen, data, model, request, strategy=None):
        asked.append(chosen)
        if chosen[0].test_split == "val200":
            # The second trial of each task is the best, and the third as good.
            number = [0, 1, 2] * (len(chosen) // 3)
            ranks = [[[1, 1, 0], [0, 0, 1], [0, 1, 0]][n] for n in number]
        else:
            ranks = [[0] * own.seed + [1] * (4 - own.seed) for own in chosen]
        return [{"ranks": own, "left_out": []} for own in ranks]

    monkeypatch.setattr(trials, "finished", finished)
    monkeypatch.setattr(fine_tuning_protocols.VtabData, "check", lambda *_: None)
    judged = LabeledImages(list("abcd"), np.array([0, 0, 1, 1]), ["one", "two"])
    monkeypatch.setattr(
        fine_tuning_protocols.VtabData, "test_images", lambda *_: judged
    )
    override = ("sweep.trials=3,runs=3",)
    request = Request("vtab", params_override=override, slice_by="class")
    found = fine_tuning_protocols.vtab(mock.Mock(), request)
    sweep, last = asked
    assert len(sweep) == 19 * 3 and len(last) == 19 * 3
    best = trials.swept_recipe(load_recipe("vtab"), 1)
    assert {trial.recipe.full.learning_rate for trial in last} == {
        best.full.learning_rate
    }
    assert [trial.seed for trial in last[:3]] == [0, 1, 2]
    assert {(trial.train_split, trial.test_split) for trial in last} == {
        ("train800val200", "test")
    }
    for name in ("dtd", "all", "natural", "specialized", "structured"):
        assert found.metrics[f"vtab/{name}"] == pytest.approx(0.25)  # 0, ¼ and ½.
        assert found.metrics[f"vtab/{name}_std"] == pytest.approx(0.25)
    # Right are none, the first, and the first two pictures.
    slices = sliced(found, "class")
    for name in found.metrics:
        if not name.endswith("_std"):
            assert slices[f"{name}[one]"] == pytest.approx(0.5)
            assert slices[f"{name}[two]"] == 0
    assert slices["vtab/all[one]/items"] == 2 * 19


def test_the_recipes_commands_name_tasks_that_there_are():
    recipes = pathlib.Path(__file__).parents[2] / "experiments"
    text = (recipes / "evaluation" / "vtab.yaml").read_text()
    named = re.findall(r"vtab/[\w+]+", text)
    assert [fine_tuning_protocols.vtab_tasks(name) for name in named] == [
        ["dtd", "svhn_cropped"]
    ]
