"""Tests of checkpoints, and of resumed, terminated, averaged and best states of a run.

The tests share one small model, since tracing takes long. `as_in_a_new_process` resets
all variables to their initial values. As in a new process, values that are not in a
checkpoint are lost. test_kill.py kills real processes.
"""

import json
import os
import pathlib
import shutil
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.config.experiment_config import TrainerConfig
from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.optimizers import AdamW
from align_keras.training import train_model
from align_keras.training.checkpoints import (
    RunCheckpoints,
    checkpoints_in,
    read_best_value,
)
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_batch, small_encoders

EMA_MOMENTUM = 0.5
RATES = ("pairs_per_second", "input_wait_fraction")


def make_batches(start_step):
    """Returns batches that differ between steps."""
    dataset = tf.data.Dataset.from_tensor_slices(small_batch(32))
    return dataset.shuffle(32, seed=1).repeat().skip(8 * start_step).batch(8)


def variables_of(model):
    """Returns the variables of the model and of the optimizer that a run changes."""
    variables = model.variables + model.optimizer.variables
    for metric in model.loss_metrics:
        variables = variables + metric.variables
    return {id(variable): variable for variable in variables}.values()


@pytest.fixture(scope="module")
def traced():
    """Returns a model whose step is traced, and the initial values of its variables.

    The image encoder is locked, since tracing its gradients takes two thirds of the
    time. The text encoder has dropout, so that the results depend on the seeds.
    """
    keras.utils.set_random_seed(0)
    image_encoder = ImageEncoder(
        width_coefficient=0.25,
        depth_coefficient=0.3,
        num_stages=1,
        image_size=32,
        projection_dim=16,
        locked=True,
    )
    text_encoder = TextEncoder(
        vocabulary_size=len(VOCABULARY),
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=16,
        dropout=0.2,
        sequence_length=8,
    )
    model = ALIGN.from_encoders(image_encoder, text_encoder, initial_temperature=0.2)
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 16)
    model.compile(AdamW(schedule, use_ema=True, ema_momentum=EMA_MOMENTUM))
    model.build_optimizer()
    start = [variable.numpy() for variable in variables_of(model)]
    model.fit(make_batches(0), steps_per_epoch=1, verbose=0)
    return model, start


@pytest.fixture
def as_in_a_new_process(traced):
    model, start = traced

    def reset_model():
        for variable, value in zip(variables_of(model), start, strict=True):
            variable.assign(value)
        return model

    return reset_model


def train(model, directory, steps, loop, interval, evaluate=None, **options):
    """Trains, and returns the lines of the log without measured times."""
    schedule = TrainerConfig(
        train_steps=steps,
        steps_per_loop=loop,
        checkpoint_interval=interval,
        validation_interval=interval,
        **options,
    )
    log = train_model(
        model, make_batches, schedule, directory, batch_size=8, evaluate=evaluate
    )
    return [
        {name: value for name, value in line.items() if name not in RATES}
        for line in log.read()
    ]


def evaluate_constant():
    return [("t2i/recall_at_1", 0.5)]


def assert_same_state(directory, expected_directory):
    """Compares the newest checkpoints of two folders, bit for bit."""
    readers = [
        tf.train.load_checkpoint(checkpoints_in(folder)[0])
        for folder in (directory, expected_directory)
    ]
    names = [
        {name for name in reader.get_variable_to_shape_map() if "variables" in name}
        for reader in readers
    ]
    assert names[0] == names[1] and len(names[0]) > 50
    for name in names[0] - {"_CHECKPOINTABLE_OBJECT_GRAPH"}:
        value, expected = (np.asarray(reader.get_tensor(name)) for reader in readers)
        assert value.tobytes() == expected.tobytes(), name


@pytest.fixture
def sigterm_is_caught():
    """Fails the test if SIGTERM isn't handled, instead of ending pytest."""

    def fail_on_sigterm(*_):
        raise AssertionError("SIGTERM was not handled")

    before = signal.signal(signal.SIGTERM, fail_on_sigterm)
    yield
    assert signal.getsignal(signal.SIGTERM) is fail_on_sigterm
    signal.signal(signal.SIGTERM, before)


def test_a_run_ended_by_sigterm_resumes_with_the_same_curve(
    as_in_a_new_process, sigterm_is_caught, tmp_path, capsys, monkeypatch
):
    uninterrupted, ended = tmp_path / "uninterrupted", tmp_path / "ended"
    expected = train(
        as_in_a_new_process(), uninterrupted, 8, 2, 4, evaluate=evaluate_constant
    )
    assert [line["step"] for line in expected] == [2, 4, 4, 6, 8, 8]

    def send_sigterm():
        # The signal arrives between steps 4 and 5, so the run ends after step 5, which
        # is within a loop.
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_constant()

    with pytest.raises(SystemExit) as caught:
        train(as_in_a_new_process(), ended, 8, 2, 4, evaluate=send_sigterm)
    assert caught.value.code == 0
    assert "step 5" in capsys.readouterr().err
    steps = [
        int(pathlib.Path(p).name[5:]) for p in checkpoints_in(ended / "checkpoints")
    ]
    assert steps == [5, 4, 0]
    # Resuming does not depend on the clock, which is set back by a year.
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 365 * 24 * 3600)
    lines = train(as_in_a_new_process(), ended, 8, 2, 4, evaluate=evaluate_constant)
    assert lines == expected
    assert_same_state(ended / "checkpoints", uninterrupted / "checkpoints")


def test_a_checkpoint_contains_all_variables(as_in_a_new_process, tmp_path):
    model = as_in_a_new_process()
    train(model, tmp_path, 2, 1, 1)
    checkpoints = RunCheckpoints(as_in_a_new_process(), str(tmp_path / "checkpoints"))
    before = [variable.numpy() for variable in variables_of(model)]
    assert checkpoints.restore_latest() == 2
    changed = {
        variable.path
        for variable, value in zip(variables_of(model), before, strict=True)
        if (variable.numpy() != value).any()
    }
    # A checkpoint contains the moments and the moving average of each weight, the
    # dropout seeds and the running means of the metrics.
    for weight in model.trainable_variables:
        name = weight.path.replace("/", "_")
        for kind in ("momentum", "velocity", "average"):
            suffix = f"{name}_{kind}"
            assert any(path.endswith(suffix) for path in changed), suffix
    assert any("seed_generator_state" in path for path in changed)
    assert "loss/sums" in changed


def test_a_best_metric_is_read_unless_the_file_is_damaged(tmp_path, capsys):
    note = tmp_path / "metric.json"
    assert read_best_value(note) is None
    for content in ("{", '{"value": "high"}'):
        note.write_text(content)
        assert read_best_value(note) is None
        assert "warning" in capsys.readouterr().err
    note.write_text(json.dumps({"metric": "t2i/recall_at_10", "value": 0.5}))
    assert read_best_value(note, "t2i/recall_at_10") == 0.5
    # Another metric chose the checkpoint.
    assert read_best_value(note, "t2i/recall_at_1") is None


@pytest.mark.parametrize(("higher", "best"), [(True, 2), (False, 1)])
def test_the_best_checkpoint_has_the_best_metric(
    as_in_a_new_process, tmp_path, higher, best
):
    values = iter([0.3, 0.5, 0.4])
    train(
        as_in_a_new_process(),
        tmp_path,
        3,
        1,
        1,
        evaluate=lambda: [("t2i/recall_at_1", next(values))],
        best_checkpoint_eval_metric="t2i/recall_at_1",
        best_checkpoint_metric_comp="higher" if higher else "lower",
        max_to_keep=1,
    )
    checkpoints = RunCheckpoints(as_in_a_new_process(), str(tmp_path / "checkpoints"))
    assert checkpoints.restore_best() == best
    assert checkpoints.restore_latest() == 3
    note = json.loads((tmp_path / "checkpoints" / "best" / "metric.json").read_text())
    assert note["step"] == best


def test_evaluations_and_the_final_model_use_the_moving_average(
    as_in_a_new_process, tmp_path
):
    model = as_in_a_new_process()
    weight = model.temperature_layer.log_temperature
    evaluated_weights = []

    def evaluate():
        evaluated_weights.append(float(weight.numpy()))
        return []

    train(model, tmp_path, 4, 1, 1, evaluate=evaluate, max_to_keep=4)
    final_weight = float(weight.numpy())
    averages, raw = [], []
    for path in reversed(checkpoints_in(tmp_path / "checkpoints")[:4]):
        folder = tmp_path / pathlib.Path(path).name
        folder.mkdir()
        for file in (tmp_path / "checkpoints").glob(f"{folder.name}.*"):
            shutil.copy(file, folder)
        RunCheckpoints(model, str(folder)).restore_latest()
        raw.append(float(weight.numpy()))
        # The moving average of Keras starts with the weights after the first update.
        before = averages[-1] if averages else raw[-1]
        averages.append(EMA_MOMENTUM * before + (1.0 - EMA_MOMENTUM) * raw[-1])
    # float32 is compared with the same recursion in float64.
    assert evaluated_weights == pytest.approx(averages, rel=1e-6)
    assert final_weight == evaluated_weights[-1]
    assert min(abs(np.subtract(raw, averages))[1:]) > 1e-4
    # Opening the finished run again restores the moving average too.
    train(as_in_a_new_process(), tmp_path, 4, 1, 1)
    assert float(weight.numpy()) == final_weight


# === Checkpoints ===


@pytest.fixture
def finished(as_in_a_new_process, tmp_path):
    """Folder of a finished run with checkpoints of the steps 4 and 2, and its model."""
    model = as_in_a_new_process()
    train(model, tmp_path / "finished", 4, 2, 2, max_to_keep=2)
    return tmp_path / "finished", model


def test_a_finished_run_is_not_changed(as_in_a_new_process, finished):
    folder, _ = finished
    files = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }
    model = as_in_a_new_process()
    lines = train(model, folder, 4, 2, 2, max_to_keep=2)
    assert [line["step"] for line in lines] == [2, 4]
    assert int(model.optimizer.iterations) == 4
    # The log is written again with the same content.
    del files[folder / "metrics.jsonl"]
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_damaged_checkpoints_are_skipped_until_all_are_damaged(finished):
    folder, model = finished
    newest, oldest = checkpoints_in(folder / "checkpoints")
    restore = RunCheckpoints(model, str(folder / "checkpoints")).restore_latest
    os.truncate(f"{newest}.data-00000-of-00001", 0)
    assert restore() == 2
    os.truncate(f"{newest}.index", 0)
    (folder / "checkpoints" / "checkpoint").unlink()
    assert restore() == 2
    data = pathlib.Path(f"{oldest}.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 255
    data.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        restore()


def test_the_checkpoint_of_another_model_is_refused(finished):
    folder, _ = finished
    other_model = ALIGN.from_encoders(*small_encoders(num_stages=1))
    other_model.compile(keras.optimizers.SGD(0.1))
    with pytest.raises(InputError, match="fit the model"):
        RunCheckpoints(other_model, str(folder / "checkpoints")).restore_latest()


def test_old_checkpoints_outside_the_list_of_tensorflow_are_deleted(
    as_in_a_new_process, tmp_path
):
    model = as_in_a_new_process()
    checkpoints = RunCheckpoints(model, str(tmp_path), max_to_keep=2)
    for step in (2, 4, 6):
        model.optimizer.iterations.assign(step)
        if step == 6:
            # Checkpoint 1 isn't in the list because of a kill, and checkpoint 9 of a
            # later step is damaged.
            for file in tmp_path.glob("ckpt-2.*"):
                for number in (1, 9):
                    shutil.copy(file, tmp_path / f"ckpt-{number}{file.suffix}")
        checkpoints.save()
    steps = [int(pathlib.Path(path).name[5:]) for path in checkpoints_in(tmp_path)]
    assert steps == [9, 6, 4]
