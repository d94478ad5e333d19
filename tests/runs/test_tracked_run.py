"""A killed and resumed run in TensorBoard, MLflow and W&B.

The trackers are real: MLflow writes a SQLite database, W&B its offline files. Their own
clients read the values back.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.oracle_process import needs
from tests.helpers.small_run import SMALL, write_pairs
from tests.helpers.wandb_files import read_offline_runs

pytestmark = [pytest.mark.ci, needs("mlflow", "wandb")]

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS_PER_LOOP = 2
# Metrics that differ between two executions of a step.
RATES = ("pairs_per_second", "input_wait_fraction")


def environment(folder):
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_MODE": "offline",
    }


def start(folder, *overrides):
    """Starts `align-keras train` in a folder."""
    data = [
        f"task.{section}.{key}={value}"
        for section, split in (("train_data", "train"), ("validation_data", "test"))
        for key, value in (
            ("pairs", folder / "pairs" / "pairs.jsonl"),
            ("tfds_split", split),
            ("tfds_data_dir", folder / "data"),
        )
    ]
    options = [
        "task.model.image_encoder.locked=true",
        "trainer.callbacks=[tensorboard,mlflow,wandb]",
        # The learning rate does not depend on the number of steps, which changes.
        "trainer.optimizer_config.learning_rate.type=constant",
        *data,
        *overrides,
    ]
    arguments = ["train", "--model_dir", "runs/colors", "--json"]
    for option in (SMALL, *options):
        arguments += ["--params_override", option]
    return subprocess.Popen(
        [sys.executable, "-m", "align_keras.cli.main", *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train_to(folder, last_step):
    process = start(folder, f"trainer.train_steps={last_step}")
    output, messages = process.communicate(timeout=600)
    assert process.returncode == 0, messages[-3000:]
    # Nothing but the result is on stdout.
    assert json.loads(output)["step"] == last_step


def mlflow_history(folder, name):
    """Returns the id of the only run of MLflow, and the (epoch, value) of a metric."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    [run] = client.search_runs(["0"])
    history = client.get_metric_history(run.info.run_id, name)
    return run.info.run_id, [(metric.step, metric.value) for metric in history]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a run of 8 steps that was resumed, killed, and resumed up to 16 steps.

    The killed process saves no checkpoint. The last one repeats its steps.
    """
    folder = tmp_path_factory.mktemp("tracked")
    write_pairs(folder / "pairs")
    train_to(folder, 8)
    killed = start(
        folder, "trainer.train_steps=40000", "trainer.checkpoint_interval=40000"
    )
    deadline = time.monotonic() + 300
    while len(mlflow_history(folder, "loss")[1]) < 6:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    train_to(folder, 16)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """Metric → (epoch → value), from `metrics.jsonl`, without rates."""
    curves = {}
    log = folder / "runs" / "colors" / "metrics.jsonl"
    for line in log.read_text().splitlines():
        values = json.loads(line)
        epoch = values.pop("step") // STEPS_PER_LOOP - 1
        for name, value in values.items():
            if name not in RATES:
                # The log has 6 digits.
                curves.setdefault(name, {})[epoch] = pytest.approx(value, rel=1e-5)
    assert list(curves["loss"]) == list(range(8))
    assert list(curves["t2i/recall_at_1"]) == [1, 3, 5, 7]
    return curves


def until_end(curve):
    """Returns the value of each epoch up to the last step.

    The killed process and the last one have recorded some epochs with equal values.
    """
    return {epoch: value for epoch, value in curve if epoch < 8}


def test_tensorboard_has_the_curves(folder, expected):
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(folder / "runs" / "colors" / "tensorboard" / "train"),
        size_guidance={"tensors": 0},
    )
    events.Reload()
    for name, curve in expected.items():
        values = [
            (event.step, tf.make_ndarray(event.tensor_proto).item())
            for event in events.Tensors(f"epoch_{name}")
        ]
        assert until_end(values) == curve, name


def test_mlflow_has_the_curves_in_one_run(folder, expected):
    from mlflow import MlflowClient

    for name, curve in expected.items():
        run_id, values = mlflow_history(folder, name)
        assert until_end(values) == curve, name
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("colors", "FINISHED")
    path = client.download_artifacts(run_id, "params.yaml", folder)
    assert "train_steps: 16" in pathlib.Path(path).read_text()


def test_wandb_has_the_curves_in_one_run(folder, expected):
    runs = read_offline_runs(folder)
    rows = [row for run in runs for row in run["history"]]
    for name, curve in expected.items():
        values = [
            (row["epoch/epoch"], row[f"epoch/{name}"])
            for row in rows
            if f"epoch/{name}" in row
        ]
        assert until_end(values) == curve, name
    first, killed, last = runs
    # The killed process may not have written its first record.
    assert killed["id"] in (None, first["id"])
    assert (last["id"], last["name"]) == (first["id"], "colors")
    assert last["config"]["trainer"]["train_steps"] == 16


def test_a_tracker_that_cannot_start_is_an_input_error(tmp_path, monkeypatch):
    from align_keras.training.trackers import tracker_callbacks
    from align_keras.utils.errors import InputError

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(InputError, match="mlflow"),
        tracker_callbacks(["mlflow"], tmp_path, {}),
    ):
        pass
