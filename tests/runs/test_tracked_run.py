"""An interrupted and resumed run in TensorBoard, MLflow and W&B.

The trackers are real: MLflow writes a SQLite database, W&B its offline files. Their own
clients read the values back.
"""

import json
import pathlib

import pytest

from align_keras import train_experiment
from align_keras.config import load_config
from align_keras.training.checkpoints import RunCheckpoints
from tests.helpers.oracle_process import needs
from tests.helpers.small_run import TINY, pairs_override, write_pairs
from tests.helpers.wandb_files import read_offline_runs

pytestmark = [pytest.mark.ci, needs("mlflow", "wandb")]

STEPS_PER_LOOP = 2
# Metrics that differ between two executions of a step.
RATES = ("pairs_per_second", "input_wait_fraction")


def config_of(folder, steps):
    return load_config(
        "quickstart_stamps",
        params_override=[
            pairs_override(folder / "pairs" / "pairs.jsonl", folder / "data"),
            TINY,
            "trainer.callbacks=[tensorboard,mlflow,wandb]",
            # The learning rate does not depend on the number of steps, which changes.
            "trainer.optimizer_config.learning_rate.type=constant",
            f"trainer.train_steps={steps}",
        ],
    )


def mlflow_history(folder, name):
    """Returns the id of the only run of MLflow, and the (epoch, value) of a metric."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    [run] = client.search_runs(["0"])
    history = client.get_metric_history(run.info.run_id, name)
    return run.info.run_id, [(metric.step, metric.value) for metric in history]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a run of 4 steps that was resumed and cut off, and resumed to 8 steps.

    The second training ends after 2 steps without a checkpoint. The last one repeats
    its steps.
    """
    folder = tmp_path_factory.mktemp("tracked")
    write_pairs(folder / "pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("WANDB_MODE", "offline")
        run = pathlib.Path("runs/colors")
        train_experiment(config_of(folder, 4), run)
        with patch.context() as cut_off:
            cut_off.setattr(RunCheckpoints, "save", stop)
            with pytest.raises(KeyboardInterrupt):
                train_experiment(config_of(folder, 8), run)
        train_experiment(config_of(folder, 8), run)
    return folder


def stop(checkpoints):
    raise KeyboardInterrupt


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
    assert list(curves["loss"]) == list(range(4))
    assert list(curves["t2i/recall_at_1"]) == [1, 3]
    return curves


def until_end(curve):
    """Returns the value of each epoch up to the last step.

    The last two trainings have recorded an epoch with equal values.
    """
    return {epoch: value for epoch, value in curve if epoch < 4}


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
    assert "train_steps: 8" in pathlib.Path(path).read_text()


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
    first, *_, last = runs
    assert {run["id"] for run in runs} == {first["id"]}
    assert last["name"] == "colors"
    assert last["config"]["trainer"]["train_steps"] == 8


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
