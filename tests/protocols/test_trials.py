"""Tests of the stages, schedules and trials of fine-tuning recipes."""

import json

import numpy as np
import pytest

from align_keras.config import load_recipe


@pytest.fixture(scope="module")
def trials():
    from align_keras.protocols import trials  # Importing TensorFlow takes seconds.

    return trials


def test_learning_rates_of_the_imagenet_recipe_match_the_paper(trials):
    recipe = load_recipe("imagenet_full")
    count = 1_281_167
    head, full = trials.build_stages(recipe, lambda size, step: (size, step), count)
    assert (head.learns_encoder, full.learns_encoder) == (False, True)
    assert full.encoder_multiplier == 0.1
    assert head.steps == full.steps == 100 * count // 1024
    assert (head.make_batches(0), full.make_batches(7)) == ((289, 0), (475, 7))
    epoch = count / 1024
    for stage, start in ((head, 0.1), (full, 0.01)):
        for step, power in (
            (0, 0),
            (round(30 * epoch) - 1, 0),
            (round(30 * epoch), 1),
            (round(60 * epoch), 2),
            (round(90 * epoch) - 1, 2),
            (round(90 * epoch), 3),
            (stage.steps - 1, 3),
        ):
            rate = float(stage.learning_rate(step))
            assert rate == pytest.approx(start * 0.2**power, rel=1e-5), step


def test_learning_rates_of_the_fine_grained_recipe_decay_along_a_cosine(trials):
    head, full = trials.build_stages(
        load_recipe("fine_grained"), lambda size, step: (size, step), 2040
    )
    assert head.steps == full.steps == 20_000
    for stage, start in ((head, 1e-2), (full, 1e-3)):
        shares = [
            float(stage.learning_rate(step)) / start for step in (0, 10_000, 5000)
        ]
        assert shares == pytest.approx([1, 0.5, 0.5 + 0.5**1.5], rel=1e-4)
        assert float(stage.learning_rate(20_000)) == 0.0


def test_stages_may_be_skipped_or_have_one_step(trials):
    recipe = load_recipe("fine_grained", params_override="head.steps=null")
    stages = trials.build_stages(recipe, lambda size, step: (size, step), 100)
    assert [stage.learns_encoder for stage in stages] == [True]
    few = load_recipe("imagenet_frozen", params_override="head.epochs=1")
    (stage,) = trials.build_stages(few, lambda size, step: (size, step), 100)
    assert stage.steps == 1 and stage.learning_rate == 0.1
    constant = load_recipe("fine_grained", params_override="head.schedule=constant")
    assert trials.stage_schedule(constant.head, 5, 1.0) == 1e-2


def test_options_of_a_sweep_are_drawn_from_their_ranges(trials):
    recipe = load_recipe("vtab")
    swept = [trials.swept_recipe(recipe, number) for number in range(400)]
    assert swept[3] == trials.swept_recipe(recipe, 3)
    assert swept[3] != trials.swept_recipe(recipe.model_copy(update={"seed": 1}), 3)
    # Half of the log-uniform rates are in each decade. The standard deviation of the
    # share of 400 draws is 2.5%, so the bounds are four deviations away.
    assert (
        0.4
        < np.mean([trial_recipe.full.learning_rate < 1e-2 for trial_recipe in swept])
        < 0.6
    )
    assert (
        0.4 < np.mean([trial_recipe.batch_size == 128 for trial_recipe in swept]) < 0.6
    )
    assert all(
        1e-3 <= trial_recipe.full.learning_rate <= 1e-1 for trial_recipe in swept
    )
    assert all(1e-6 <= trial_recipe.weight_decay <= 1e-3 for trial_recipe in swept)
    assert {trial_recipe.full.steps for trial_recipe in swept} == {500, 1000, 2500}
    assert {trial_recipe.batch_size for trial_recipe in swept} == {128, 256}
    assert {(trial_recipe.crop, trial_recipe.flip) for trial_recipe in swept} == {
        (crop, flip) for crop in ("inception", "whole") for flip in (True, False)
    }
    # Options that aren't drawn have the value of the recipe.
    assert all(
        trial_recipe.full.train_size == recipe.full.train_size for trial_recipe in swept
    )


def test_inputs_of_a_trial_do_not_depend_on_other_trials(trials):
    recipe = load_recipe("vtab")
    fewer = recipe.model_copy(update={"runs": 1, "seed": 5})
    two_trials = [
        trials.Trial("dtd", "train800", "val200", trial_recipe, 0)
        for trial_recipe in (recipe, fewer)
    ]
    assert two_trials[0].inputs("m", "d") == two_trials[1].inputs("m", "d")
    json.dumps(two_trials[0].inputs("m", "d"))
    other = trials.Trial("dtd", "train800", "val200", recipe, 1)
    assert other.inputs("m", "d") != two_trials[0].inputs("m", "d")
