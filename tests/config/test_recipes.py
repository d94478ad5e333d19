"""Recipes of the fine-tuning evaluations."""

import re

import pytest

from align_keras.config import experiments, load_recipe
from align_keras.utils.errors import InputError

RECIPES = experiments("evaluation")
HEADER = ("Command", "Hardware", "Duration", "Expected metric")


def test_all_recipes_exist():
    names = {"imagenet_frozen", "imagenet_full", "fine_grained", "vtab"}
    assert set(RECIPES) == names


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_starts_with_its_command(name):
    text = RECIPES[name].read_text(encoding="utf-8")
    lines = [line.removeprefix("# ") for line in text.splitlines()]
    header = [line.partition(":")[0] for line in lines if line.startswith(HEADER)]
    assert header == list(HEADER)
    assert f"align-keras evaluate {name} --model" in lines[0]
    assert re.search(r"Jia et al\. 2021, table [567]\b", text)


def test_imagenet_frozen_has_the_values_of_the_paper():
    recipe = load_recipe("imagenet_frozen")
    head = recipe.head
    assert (head.epochs, head.steps, head.learning_rate) == (100, None, 0.1)
    assert (head.schedule, head.decay_factor, head.decay_epochs) == (
        "stepwise",
        0.2,
        30,
    )
    assert (head.train_size, head.eval_size) == (289, 360)
    assert (recipe.batch_size, recipe.momentum, recipe.weight_decay) == (1024, 0.9, 0.0)
    assert (recipe.crop, recipe.flip, recipe.central_crop) == ("inception", True, 0.875)
    assert recipe.min_crop_area == 0.08
    assert recipe.full.is_skipped and recipe.last_stage == "head"
    assert recipe.runs == 1 and recipe.sweep.trials == 0


def test_imagenet_full_has_the_values_of_the_paper():
    recipe, frozen = load_recipe("imagenet_full"), load_recipe("imagenet_frozen")
    assert recipe.head == frozen.head and recipe.batch_size == frozen.batch_size
    full = recipe.full
    assert (full.epochs, full.learning_rate, full.backbone_multiplier) == (
        (100, 0.01, 0.1)
    )
    assert (full.schedule, full.decay_factor, full.decay_epochs) == (
        "stepwise",
        0.2,
        30,
    )
    assert (full.train_size, full.eval_size) == (475, 600)
    assert recipe.weight_decay == 0.0 and recipe.last_stage == "full"


def test_fine_grained_has_the_values_of_the_paper():
    recipe = load_recipe("fine_grained")
    assert (recipe.runs, recipe.batch_size, recipe.weight_decay) == (3, 256, 1e-5)
    for stage, rate in ((recipe.head, 1e-2), (recipe.full, 1e-3)):
        assert (stage.steps, stage.schedule, stage.learning_rate) == (
            (20_000, "cosine", rate)
        )
        assert (stage.train_size, stage.eval_size) == (289, 360)
    assert recipe.full.freeze_batch_statistics


def test_vtab_has_the_values_of_the_paper_and_marks_the_other_values():
    recipe = load_recipe("vtab")
    assert (recipe.runs, recipe.sweep.trials) == (3, 50)
    assert recipe.last_stage == "full"
    text = " ".join(RECIPES["vtab"].read_text(encoding="utf-8").split("#"))
    text = " ".join(text.split())
    assert "arXiv 1910.04867" in text and "50 trials" in text
    assert "unverified" in text


@pytest.mark.parametrize(
    "override, key",
    [
        ("head.stepz=1", "head.stepz"),
        ("crop=random", "crop"),
        ("head.epochs=3", "head.epochs"),
        ("micro_batch_size=3", "micro_batch_size"),
        (
            "runtime.distribution_strategy=mirrored,runtime.num_replicas=3",
            "batch_size",
        ),
        (
            "runtime.distribution_strategy=multi_worker_mirrored",
            "runtime.distribution_strategy",
        ),
    ],
)
def test_invalid_overrides_are_refused(override, key):
    with pytest.raises(InputError, match=f"'{key}'"):
        load_recipe("fine_grained", params_override=override)


def test_files_and_overrides_replace_values_of_the_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("runs: 1\nhead:\n  steps: 10\n")
    recipe = load_recipe("fine_grained", [path], ["head.steps=20", "seed=3"])
    assert (recipe.runs, recipe.head.steps, recipe.seed) == (1, 20, 3)
    assert recipe.full.steps == 20_000


def test_an_unknown_recipe_is_refused():
    with pytest.raises(InputError, match=r"zero_shot\.yaml.* experiments/evaluation"):
        load_recipe("zero_shot")
