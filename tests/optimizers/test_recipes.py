"""Tests of the optimizer settings of the recipe "auto"."""

import keras
import pytest

from align_keras.optimizers import LinearWarmup, Muon
from align_keras.optimizers.recipes import (
    check_recipe,
    resolve_recipe,
    warmup_warning,
)
from align_keras.utils.errors import InputError


@pytest.mark.parametrize(
    ("steps", "batch_size", "warmup_steps"),
    [
        (3, 512, 0),
        (45, 32, 4),
        (225, 64, 22),
        (4_680, 64, 468),
        (1_200_000, 64, 10_000),
    ],
)
def test_warmup_is_a_tenth_of_the_run(steps, batch_size, warmup_steps):
    recipe = resolve_recipe(steps, batch_size)
    assert recipe.warmup_steps == warmup_steps
    schedule = recipe.schedule()
    assert 0 < float(schedule(0)) <= recipe.learning_rate
    assert float(schedule(warmup_steps)) == pytest.approx(recipe.learning_rate)
    assert float(schedule(steps)) == pytest.approx(0, abs=1e-9)


def test_learning_rate_grows_with_the_batch_size():
    rates = [resolve_recipe(1000, size).learning_rate for size in (32, 64, 128, 512)]
    assert rates == sorted(rates)
    assert len(set(rates)) == 4
    # The batch size is four times as large, so the rate is twice as large.
    assert rates[3] / rates[2] == pytest.approx(2.0)
    assert resolve_recipe(1000, None).learning_rate == rates[1]


def test_trained_weights_have_a_tenth_of_the_rate():
    fine_tuning = resolve_recipe(1000, 64, is_fine_tuning=True)
    rate = resolve_recipe(1000, 64).learning_rate
    assert fine_tuning.learning_rate == pytest.approx(rate / 10)
    assert "trained weights" in str(fine_tuning)


def test_a_run_of_unknown_length_has_a_constant_rate_after_the_warmup():
    recipe = resolve_recipe(None, 64)
    schedule = recipe.schedule()
    assert recipe.warmup_steps == 100
    assert float(schedule(0)) < float(schedule(50)) < float(schedule(100))
    assert float(schedule(100)) == float(schedule(10**6))
    assert "unknown" in str(recipe)


@pytest.mark.parametrize(
    ("steps", "lower", "upper"), [(3, 0.0, 0.1), (45, 0.7, 0.8), (1000, 0.98, 0.991)]
)
def test_the_momentum_of_moving_statistics_grows_with_the_run(steps, lower, upper):
    momentum = resolve_recipe(steps, 64).max_batch_norm_momentum
    assert lower <= momentum <= upper
    # The weight of the initial statistics at the end of the run is negligible.
    assert momentum**steps < 1e-4


def test_a_schedule_can_start_at_a_later_step():
    recipe = resolve_recipe(200, 64)
    first, second = recipe.schedule(), recipe.schedule(first_step=1000)
    for step in (0, 10, 20, 100, 199):
        assert float(first(step)) == pytest.approx(float(second(1000 + step)))
    copy = LinearWarmup.from_config(second.get_config())
    assert float(copy(1100)) == float(second(1100))


def test_a_copy_of_the_optimizer_has_the_same_config():
    optimizer = resolve_recipe(200, 64).build_optimizer()
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, Muon)
    assert copy.get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    ("recipe", "optimizer", "words"),
    [
        ("papers", None, "recipe"),
        ("paper", "sgd", "recipe='paper' and optimizer=str"),
        ("auto", "sgd", "Leave one"),
    ],
)
def test_a_recipe_must_be_known_and_excludes_an_optimizer(recipe, optimizer, words):
    with pytest.raises(InputError, match=words):
        check_recipe(recipe, optimizer)


def test_a_warmup_longer_than_the_run_is_reported():
    optimizer = keras.optimizers.SGD(LinearWarmup(1e-3, 100))
    assert warmup_warning(optimizer, 101) is None
    warning = warmup_warning(optimizer, 50)
    assert warning is not None
    assert "100 steps" in warning and "50 steps" in warning
    assert "0.0005" in warning
    assert "Shorten the warm-up" in warning
    # A schedule of Keras may have a warm-up too.
    cosine = keras.optimizers.schedules.CosineDecay(
        0.0, 1000, warmup_target=1e-3, warmup_steps=100
    )
    assert warmup_warning(keras.optimizers.SGD(cosine), 50) is not None
    assert warmup_warning(keras.optimizers.SGD(0.1), 50) is None
