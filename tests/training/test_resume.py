"""What a run keeps: resumed, terminated, averaged and best states, in one process.

One small model is traced once. `as_in_a_new_process` puts every variable back to what
it was before the first step, so whatever a checkpoint leaves out is lost, as it is when
a process ends. Real processes are killed in test_kill.py.
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

from align_keras.config import TrainerConfig
from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.optimizers import AdamW
from align_keras.training import train_model
from align_keras.training.checkpoints import (
    RunCheckpoints,
    checkpoints_in,
    read_best_value,
)
from tests.helpers.small import VOCABULARY, small_batch

EMA_MOMENTUM = 0.5
RATES = ("pairs_per_second", "input_wait_fraction")


def make_batches(start_step):
    """Batches that differ from step to step."""
    dataset = tf.data.Dataset.from_tensor_slices(small_batch(32))
    return dataset.shuffle(32, seed=1).repeat().skip(8 * start_step).batch(8)


def variables_of(model):
    """All that a run changes: weights, statistics, seeds, moments, means."""
    every = model.variables + model.optimizer.variables
    for metric in model.loss_metrics:
        every = every + metric.variables
    return {id(variable): variable for variable in every}.values()


@pytest.fixture(scope="module")
def traced():
    """A compiled model, and its variables' values before the first step.

    The image encoder is locked, since tracing its gradients takes two thirds of the
    time; dropout of the text encoder makes the seeds matter.
    """
    keras.utils.set_random_seed(0)
    image_encoder = ImageEncoder(
        width_coefficient=0.25,
        depth_coefficient=0.3,
        num_stages=3,
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
    model = ALIGN(image_encoder, text_encoder, initial_temperature=0.2)
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 16)
    model.compile(AdamW(schedule, use_ema=True, ema_momentum=EMA_MOMENTUM))
    model.build_optimizer()
    return model, [variable.numpy() for variable in variables_of(model)]


@pytest.fixture
def as_in_a_new_process(traced):
    model, start = traced

    def renewed():
        for variable, value in zip(variables_of(model), start, strict=True):
            variable.assign(value)
        return model

    return renewed


def trained(model, directory, steps, loop, interval, evaluate=None, **kept):
    """Trains, and returns the lines of the log without what the clock decides."""
    schedule = TrainerConfig(steps, loop, interval, interval, **kept)
    log = train_model(
        model, make_batches, schedule, directory, batch_size=8, evaluate=evaluate
    )
    return [
        {name: value for name, value in line.items() if name not in RATES}
        for line in log.read()
    ]


def half():
    return [("t2i/recall_at_1", 0.5)]


def assert_same_state(ours, theirs):
    """The newest checkpoints of two folders are equal bit for bit."""
    readers = [
        tf.train.load_checkpoint(checkpoints_in(own)[0]) for own in (ours, theirs)
    ]
    names = [
        {name for name in reader.get_variable_to_shape_map() if "variables" in name}
        for reader in readers
    ]
    assert names[0] == names[1] and len(names[0]) > 100
    for name in names[0] - {"_CHECKPOINTABLE_OBJECT_GRAPH"}:
        one, other = (np.asarray(reader.get_tensor(name)) for reader in readers)
        assert one.tobytes() == other.tobytes(), name


@pytest.fixture
def sigterm_is_caught():
    """Fails the test where a SIGTERM finds no handler, rather than end pytest."""

    def uncaught(*_):
        raise AssertionError("SIGTERM came while nothing listened")

    before = signal.signal(signal.SIGTERM, uncaught)
    yield
    assert signal.getsignal(signal.SIGTERM) is uncaught
    signal.signal(signal.SIGTERM, before)


def test_a_run_that_sigterm_ended_goes_on_to_the_same_curve(
    as_in_a_new_process, sigterm_is_caught, tmp_path, capsys
):
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    expected = trained(as_in_a_new_process(), whole, 8, 2, 4, evaluate=half)
    assert [line["step"] for line in expected] == [2, 4, 4, 6, 8, 8]

    def ask_to_end():
        # Between steps 4 and 5, so that step 5, amid a loop, is the last one.
        os.kill(os.getpid(), signal.SIGTERM)
        return half()

    with pytest.raises(SystemExit) as caught:
        trained(as_in_a_new_process(), ended, 8, 2, 4, evaluate=ask_to_end)
    assert caught.value.code == 0
    assert "step 5 is saved" in capsys.readouterr().err
    steps = [
        int(pathlib.Path(p).name[5:]) for p in checkpoints_in(ended / "checkpoints")
    ]
    assert steps == [5, 4, 0]
    assert trained(as_in_a_new_process(), ended, 8, 2, 4, evaluate=half) == expected
    assert_same_state(ended / "checkpoints", whole / "checkpoints")


def test_a_checkpoint_holds_every_variable(as_in_a_new_process, tmp_path):
    model = as_in_a_new_process()
    trained(model, tmp_path, 2, 1, 1)
    raw = RunCheckpoints(as_in_a_new_process(), str(tmp_path / "checkpoints"))
    before = [variable.numpy() for variable in variables_of(model)]
    assert raw.restore_latest() == 2
    changed = {
        variable.path
        for variable, value in zip(variables_of(model), before, strict=True)
        if (variable.numpy() != value).any()
    }
    # Of Adam, the moments and the average of each weight; dropout's seeds; the means.
    for weight in model.trainable_variables:
        own = weight.path.replace("/", "_")
        for kind in ("momentum", "velocity", "average"):
            assert any(path.endswith(f"{own}_{kind}") for path in changed), (own, kind)
    assert any("seed_generator_state" in path for path in changed)
    assert "loss/sums" in changed


@pytest.mark.ci
def test_a_clock_that_jumps_back_a_year_changes_nothing(
    as_in_a_new_process, tmp_path, monkeypatch
):
    whole, jumped = tmp_path / "whole", tmp_path / "jumped"
    expected = trained(as_in_a_new_process(), whole, 6, 2, 2)
    trained(as_in_a_new_process(), jumped, 4, 2, 2)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 365 * 24 * 3600)
    assert trained(as_in_a_new_process(), jumped, 6, 2, 2) == expected
    steps = [
        int(pathlib.Path(p).name[5:]) for p in checkpoints_in(jumped / "checkpoints")
    ]
    assert steps == [6, 4, 2]
    assert_same_state(jumped / "checkpoints", whole / "checkpoints")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"value": "high"}'])
def test_a_damaged_note_of_the_best_ends_no_training(tmp_path, capsys, content):
    (tmp_path / "metric.json").write_text(content)
    assert read_best_value(tmp_path / "metric.json") is None
    assert "metric.json is damaged" in capsys.readouterr().err
    (tmp_path / "metric.json").write_text('{"value": 0.5}')
    assert read_best_value(tmp_path / "metric.json") == 0.5
    assert read_best_value(tmp_path / "none.json") is None


@pytest.mark.parametrize(("higher", "best"), [(True, 2), (False, 1)])
def test_the_best_checkpoint_is_the_best(as_in_a_new_process, tmp_path, higher, best):
    values = iter([0.3, 0.5, 0.4])
    trained(
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


def test_evaluations_and_the_end_see_the_average(as_in_a_new_process, tmp_path):
    model = as_in_a_new_process()
    weight = model.temperature_layer.log_temperature
    seen = []

    def evaluate():
        seen.append(float(weight.numpy()))
        return []

    trained(model, tmp_path, 4, 1, 1, evaluate=evaluate, max_to_keep=4)
    ended = float(weight.numpy())
    averages, raw = [], []
    for path in reversed(checkpoints_in(tmp_path / "checkpoints")[:4]):
        folder = tmp_path / pathlib.Path(path).name
        folder.mkdir()
        for file in (tmp_path / "checkpoints").glob(f"{folder.name}.*"):
            shutil.copy(file, folder)
        RunCheckpoints(model, str(folder)).restore_latest()
        raw.append(float(weight.numpy()))
        # Keras's average begins with the weights after the first update.
        before = averages[-1] if averages else raw[-1]
        averages.append(EMA_MOMENTUM * before + (1.0 - EMA_MOMENTUM) * raw[-1])
    # float32 against the same recursion in float64.
    assert seen == pytest.approx(averages, rel=1e-6)
    assert ended == seen[-1]
    assert min(abs(np.subtract(raw, averages))[1:]) > 1e-4
    # A finished run that is opened again ends with the average too.
    trained(as_in_a_new_process(), tmp_path, 4, 1, 1)
    assert float(weight.numpy()) == ended
