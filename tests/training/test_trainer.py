"""Tests of the training loop and of the diagnosis of non-finite steps."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.config.experiment_config import TrainerConfig
from align_keras.models import ALIGN
from align_keras.models.fit_callbacks import NonFiniteStepError
from align_keras.models.gradients import is_finite_step
from align_keras.optimizers import AdamW
from align_keras.training import diagnosis as diagnosis_module
from align_keras.training import train_model
from align_keras.training.checkpoints import RunCheckpoints
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_batch, small_encoders


def make_batches(start_step):
    dataset = tf.data.Dataset.from_tensor_slices(small_batch(32))
    return dataset.shuffle(32, seed=1).repeat().skip(8 * start_step).batch(8)


def tiny_align(locked=True):
    """Returns an ALIGN whose image encoder has one block.

    A locked image encoder has no gradients, which take long to trace.
    """
    encoders = small_encoders(num_stages=1, locked=locked)
    return ALIGN.from_encoders(
        *encoders, vocabulary=VOCABULARY, initial_temperature=0.2
    )


def compiled_model(loss_upper_bound=None, locked=True):
    keras.utils.set_random_seed(0)
    model = tiny_align(locked)
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 8)
    model.compile(AdamW(schedule), loss_upper_bound=loss_upper_bound)
    return model


def run(
    directory,
    steps,
    batches=make_batches,
    evaluate=None,
    batch_ids=None,
    locked=True,
    **trainer_options,
):
    model = compiled_model(locked=locked)
    trainer_options = {"steps_per_loop": 2, **trainer_options}
    interval = max(4, trainer_options["steps_per_loop"])
    schedule = TrainerConfig(
        train_steps=steps,
        checkpoint_interval=interval,
        validation_interval=interval,
        **trainer_options,
    )
    log = train_model(
        model,
        batches,
        schedule,
        directory,
        batch_size=8,
        evaluate=evaluate,
        batch_ids=batch_ids,
    )
    return model, log.read()


def without_rates(lines):
    rates = ("pairs_per_second", "input_wait_fraction")
    return [{k: v for k, v in line.items() if k not in rates} for line in lines]


@pytest.mark.release
def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path):
    uninterrupted, expected = run(
        tmp_path / "whole", 8, evaluate=lambda: [("a/b", 0.5)], locked=False
    )

    def broken(start_step):
        # The run is interrupted in the loop after the checkpoint of step 4.
        yield from make_batches(start_step).take(6).as_numpy_iterator()
        raise KeyboardInterrupt

    def dying_batches(start_step):
        spec = make_batches(0).element_spec
        return tf.data.Dataset.from_generator(
            lambda: broken(start_step), output_signature=spec
        )

    with pytest.raises((KeyboardInterrupt, tf.errors.OpError, InputError)):
        run(
            tmp_path / "cut",
            8,
            batches=dying_batches,
            evaluate=lambda: [("a/b", 0.5)],
            locked=False,
        )
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint").exists()
    resumed, actual = run(
        tmp_path / "cut", 8, evaluate=lambda: [("a/b", 0.5)], locked=False
    )
    assert without_rates(actual) == without_rates(expected)
    assert [line["step"] for line in actual if "loss" in line] == [2, 4, 6, 8]
    for actual_weight, expected_weight in zip(
        resumed.get_weights(), uninterrupted.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(actual_weight, expected_weight)


def run_in_float16(directory, steps):
    """Trains in float16 with overflowing gradients in the first steps.

    Returns:
        The model, and True if the loss scale was lowered.
    """
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = tiny_align(locked=False)
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = keras.optimizers.LossScaleOptimizer(AdamW(1e-2), initial_scale=2.0**24)
    model.compile(optimizer)
    model.build_optimizer()
    start = float(optimizer.dynamic_scale)
    schedule = TrainerConfig(
        train_steps=steps,
        steps_per_loop=2,
        checkpoint_interval=4,
        validation_interval=4,
    )
    train_model(model, make_batches, schedule, directory, batch_size=8)
    return model, float(optimizer.dynamic_scale) < start


@pytest.mark.release
def test_steps_with_an_overflowing_scaled_gradient_count_as_steps(tmp_path):
    uninterrupted, overflowed = run_in_float16(tmp_path / "whole", 12)
    assert overflowed

    def refuse_nan(name):
        raise AssertionError(f"{name} in metrics.jsonl")

    def lines(folder):
        text = (tmp_path / folder / "metrics.jsonl").read_text()
        return [
            json.loads(line, parse_constant=refuse_nan) for line in text.splitlines()
        ]

    assert [line["step"] for line in lines("whole")] == [2, 4, 6, 8, 10, 12]
    # Skipped steps have a finite loss too.
    assert lines("whole")[0]["loss"] > 0
    run_in_float16(tmp_path / "cut", 4)
    resumed, _ = run_in_float16(tmp_path / "cut", 12)
    assert without_rates(lines("cut")) == without_rates(lines("whole"))
    for actual, expected in zip(
        resumed.get_weights(), uninterrupted.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    checkpoints = RunCheckpoints(uninterrupted, str(tmp_path / "whole" / "checkpoints"))
    assert checkpoints.restore_latest() == 12


@pytest.mark.parametrize("scale, finite", [(2.0, True), (1.0, False)])
def test_non_finite_gradients_stop_the_run_only_at_a_loss_scale_of_1(scale, finite):
    optimizer = keras.optimizers.LossScaleOptimizer(AdamW(), initial_scale=scale)
    optimizer.build([])
    model = tiny_align()
    model.compile(optimizer)
    losses = (tf.constant(1.0), tf.constant(1.0))
    assert bool(is_finite_step(model, losses, [tf.constant(np.inf)])) == finite
    assert is_finite_step(model, losses, [tf.constant(1.0)])


def test_the_diagnosis_contains_the_pairs_of_all_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosis_module, "worker_count", lambda strategy: 2)

    def halves(start_step, input_pipeline_id, num_input_pipelines):
        assert (start_step, num_input_pipelines) == (4, 2)
        rows = slice(4 * input_pipeline_id, 4 * input_pipeline_id + 4)
        images = small_batch(8)["images"].astype("float32")
        images[5] = np.nan
        batch = {**small_batch(8), "images": images}
        return tf.data.Dataset.from_tensors({k: v[rows] for k, v in batch.items()})

    def batch_ids(step, input_pipeline_id, num_input_pipelines):
        return [f"pair {4 * input_pipeline_id + row}" for row in range(4)]

    names = ("loss", "loss_i2t", "loss_t2i", "image_gradient_norm")
    values = dict.fromkeys([*names, "text_gradient_norm"], np.nan)
    error = NonFiniteStepError(5, values, None)
    input_error = diagnosis_module.diagnosed_error(
        error, compiled_model(), halves, batch_ids, tmp_path
    )
    assert "pairs pair 5" in str(input_error)
    diagnosis = json.loads((tmp_path / "diagnosis.json").read_text())
    assert diagnosis["batch_ids"] == [f"pair {row}" for row in range(8)]


@pytest.mark.ci
def test_fit_continues_training_after_a_run_with_the_default_recipe(tmp_path):
    model = tiny_align()
    model.compile()
    schedule = TrainerConfig(
        train_steps=4, steps_per_loop=2, checkpoint_interval=4, validation_interval=4
    )
    train_model(model, make_batches, schedule, tmp_path, batch_size=8)
    assert model.resolved_recipe.steps == 4
    before = model.get_weights()
    model.fit(make_batches(0).take(2), verbose=0)
    assert model.resolved_recipe.steps == 2
    changes = [
        np.abs(after - weights).max()
        for after, weights in zip(model.get_weights(), before, strict=True)
    ]
    assert max(changes) > 1e-4


@pytest.mark.ci
def test_nan_stops_the_run_before_the_update_and_names_the_pairs(tmp_path):
    def poisoned(start_step):
        good = small_batch(8)
        images = good["images"].astype("float32")
        good = {**good, "images": images.copy()}
        images[[2, 5]] = np.nan
        bad = tf.data.Dataset.from_tensors({**good, "images": images})
        batches = tf.data.Dataset.from_tensors(good).repeat(4)
        return batches.concatenate(bad.repeat()).skip(start_step)

    def batch_ids(step):
        assert step == 4
        return [f"pair {row}" for row in range(8)]

    with pytest.raises(InputError, match="pair 2, pair 5"):
        run(tmp_path, 8, batches=poisoned, batch_ids=batch_ids, locked=False)
    diagnosis = json.loads((tmp_path / "diagnosis.json").read_text())
    assert (diagnosis["name"], diagnosis["step"]) == ("non_finite_step", 5)
    assert "loss isn't finite" in diagnosis["problem"]
    assert "learning rate" in diagnosis["remedy"]
    assert diagnosis["bad_ids"] == ["pair 2", "pair 5"]
    assert diagnosis["towers"]["text"]["embeddings_not_finite"] == 0
    model = compiled_model(locked=False)
    assert RunCheckpoints(model, str(tmp_path / "checkpoints")).restore_latest() == 4
    assert np.isfinite(model.loss_metrics[0].sums.numpy()).all()
    # The forward pass with NaN changed no variable, not even moving statistics.
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


@pytest.mark.ci
def test_a_loss_above_its_bound_stops_fit_before_the_update(tmp_path):
    model = compiled_model(loss_upper_bound=1.0)
    before = model.get_weights()
    with pytest.raises(InputError, match="loss_upper_bound"):
        model.fit(make_batches(0), steps_per_epoch=2, verbose=0)
    for actual, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, expected)
