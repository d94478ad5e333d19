"""Resuming gives the same curve bit for bit; a NaN stops the run."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.training import TrainingSchedule, train
from align_keras.training.checkpoints import RunCheckpoints
from align_keras.training.metrics_log import MetricsLog
from align_keras.utils.errors import InputError
from tests.small import small_align, small_batch


def make_batches(start_step):
    dataset = tf.data.Dataset.from_tensor_slices(small_batch(32))
    return dataset.shuffle(32, seed=1).repeat().skip(8 * start_step).batch(8)


def compiled_model():
    keras.utils.set_random_seed(0)
    model = small_align(initial_temperature=0.2)
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 8)
    model.compile(keras.optimizers.AdamW(schedule))
    return model


def run(directory, steps, batches=make_batches, evaluate=None):
    model = compiled_model()
    schedule = TrainingSchedule(
        train_steps=steps,
        steps_per_loop=2,
        checkpoint_interval=4,
        validation_interval=4,
    )
    log = train(model, batches, schedule, directory, batch_size=8, evaluate=evaluate)
    return model, log.read()


def without_rates(lines):
    return [
        {k: v for k, v in line.items() if k != "pairs_per_second"} for line in lines
    ]


def test_resumed_run_equals_an_undisturbed_one(tmp_path):
    whole, expected = run(tmp_path / "whole", 8, evaluate=lambda: [("a/b", 0.5)])

    def broken(start_step):
        # The process dies in the loop after the checkpoint of step 4.
        yield from make_batches(start_step).take(6).as_numpy_iterator()
        raise KeyboardInterrupt

    def dying_batches(start_step):
        spec = make_batches(0).element_spec
        return tf.data.Dataset.from_generator(
            lambda: broken(start_step), output_signature=spec
        )

    with pytest.raises((KeyboardInterrupt, tf.errors.OpError)):
        run(tmp_path / "cut", 8, batches=dying_batches, evaluate=lambda: [("a/b", 0.5)])
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint").exists()
    resumed, actual = run(tmp_path / "cut", 8, evaluate=lambda: [("a/b", 0.5)])
    assert without_rates(actual) == without_rates(expected)
    assert [line["step"] for line in actual if "loss" in line] == [2, 4, 6, 8]
    for ours, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_finished_run_is_left_alone(tmp_path):
    first, lines = run(tmp_path, 4)
    again, same = run(tmp_path, 4)
    assert lines == same
    for ours, theirs in zip(again.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_nan_stops_with_a_diagnosis_and_keeps_the_checkpoint(tmp_path):
    def poisoned(start_step):
        batch = small_batch(8)
        bad = {**batch, "images": np.full(batch["images"].shape, np.nan, "float32")}
        good = {**batch, "images": batch["images"].astype("float32")}
        datasets = [tf.data.Dataset.from_tensors(b) for b in (good, bad)]
        return datasets[0].repeat(4).concatenate(datasets[1].repeat())

    with pytest.raises(InputError, match="loss became nan at or before step 6"):
        run(tmp_path, 8, batches=poisoned)
    model = compiled_model()
    assert RunCheckpoints(model, str(tmp_path / "checkpoints")).restore_latest() == 4
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def test_checkpoint_of_another_model(tmp_path):
    run(tmp_path, 4)
    other = small_align()
    other.compile(keras.optimizers.SGD(0.1))
    with pytest.raises(InputError, match="doesn't fit the model"):
        RunCheckpoints(other, str(tmp_path / "checkpoints")).restore_latest()


def test_intervals_are_multiples_of_the_loop():
    with pytest.raises(InputError, match="checkpoint_interval.*multiple"):
        TrainingSchedule(10, 5, 7, 5)


def test_log_drops_a_torn_line(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(1, {"loss": 1 / 3})
    with open(log.path, "a") as file:
        file.write(json.dumps({"step": 2})[:-1])
    assert log.read() == [{"step": 1, "loss": 0.333333}]
    log.truncate_after(1)
    assert log.path.read_text().count("\n") == 1
