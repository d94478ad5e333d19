"""A killed and resumed run in TensorBoard, MLflow, W&B and Trackio.

The trackers are real: MLflow writes a SQLite database, W&B its offline files, Trackio a
local folder. Their own clients read the values back.
"""

import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import yaml

from tests.helpers.oracle_process import needs
from tests.helpers.small_run import SMALL, write_pairs
from tests.helpers.wandb_files import read_offline_runs

pytestmark = [pytest.mark.ci, needs("mlflow", "wandb", "trackio")]

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")
# Metrics that differ between two executions of a step.
RATES = ("pairs_per_second", "input_wait_fraction")
PASSWORD = "hunter2hunter2"


def environment(folder, **variables):
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(folder / "trackio"),
        **variables,
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
    # The learning rate does not depend on the number of steps, which changes.
    rate = "trainer.optimizer_config.learning_rate.type=constant"
    options = ["task.model.image_encoder.locked=true", rate, *data, *overrides]
    arguments = ["train", "--model_dir", "runs/colors", "--json"]
    # A later option replaces the address, but it stays in the command line.
    address = f"task.train_data.pairs=https://me:{PASSWORD}@host/pairs.jsonl"
    for option in (SMALL, address, *options):
        arguments += ["--params_override", option]
    return subprocess.Popen(
        [sys.executable, "-m", "align_keras.cli.main", *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_of(folder):
    """Returns a dict from step to the metrics in `metrics.jsonl`, without rates."""
    steps = {}
    path = folder / "runs" / "colors" / "metrics.jsonl"
    for line in path.read_text().splitlines():
        values = json.loads(line)
        metrics = steps.setdefault(values.pop("step"), {})
        metrics.update({k: v for k, v in values.items() if k not in RATES})
    return steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a run that was killed after some steps, and resumed."""
    folder = tmp_path_factory.mktemp("tracked")
    write_pairs(folder / "pairs")
    run = folder / "runs" / "colors"
    callbacks = f"trainer.callbacks=[{','.join(TRACKERS)}]"
    first = start(folder, callbacks, "trainer.train_steps=4000")
    log, checkpoints = run / "metrics.jsonl", run / "checkpoints"
    deadline = time.monotonic() + 300
    while not (checkpoints / "ckpt-8.index").exists() or len(steps_of(folder)) < 5:
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()
        time.sleep(0.001)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    text = log.read_bytes()
    log.write_bytes(text[: text.rfind(b"\n") + 1])
    killed_step = max(steps_of(folder))
    (run / "report.html").write_text("<h1>Report of the run</h1>")
    # The parameters of MLflow cannot change, so this option tests a changed one too.
    last_step = killed_step // 4 * 4 + 8
    steps = f"trainer.train_steps={last_step}"
    second = start(folder, callbacks, steps)
    output, messages = second.communicate(timeout=600)
    assert second.returncode == 0, messages[-3000:]
    assert "warning" not in messages and "resuming at step" in messages
    # Nothing but the result is on stdout.
    assert json.loads(output)["step"] == last_step
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    return steps_of(folder)


@pytest.fixture(scope="module")
def run_ids(folder):
    state = json.loads((folder / "runs" / "colors" / "trackers.json").read_text())
    assert {entry["step"] for entry in state.values()} == {max(steps_of(folder))}
    return {name: entry["run_id"] for name, entry in state.items()}


def curves(steps):
    """Returns a dict from metric to its (step, value) pairs.

    The tolerance is that of the 6 digits in `metrics.jsonl`.
    """
    result = {}
    for step, values in steps.items():
        for name, value in values.items():
            result.setdefault(name, []).append((step, pytest.approx(value, rel=1e-5)))
    return result


def test_tensorboard_has_each_step_once(folder, expected):
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(folder / "runs" / "colors" / "tensorboard"), size_guidance={"tensors": 0}
    )
    events.Reload()
    for name, curve in curves(expected).items():
        assert [
            (event.step, tf.make_ndarray(event.tensor_proto).item())
            for event in events.Tensors(name)
        ] == curve, name


def test_mlflow_has_one_run_with_each_step_once(folder, expected, run_ids):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("align-keras")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_ids["mlflow"]
    assert (run.info.run_name, run.info.status) == ("colors", "FINISHED")
    for name, curve in curves(expected).items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [(metric.step, metric.value) for metric in history] == curve, name
    params = run.data.params
    assert params["task.model.image_encoder.image_size"] == "32"
    assert params["trainer.optimizer_config.optimizer.type"] == "lamb"
    assert params["trainer.train_steps"] == "4000"
    assert len(params) > 100
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"params.yaml", "report.html", "README.md"}
    folder = pathlib.Path(client.download_artifacts(run.info.run_id, "", folder))
    newest = yaml.safe_load((folder / "params.yaml").read_text())
    assert newest["trainer"]["train_steps"] == max(expected)
    assert "Report of the run" in (folder / "report.html").read_text()
    assert "t2i/recall_at_1" in (folder / "README.md").read_text()


def test_wandb_has_one_run_with_each_step(folder, expected, run_ids):
    runs = read_offline_runs(folder)
    assert len(runs) == 2
    rows = {}
    for run in runs:
        # The killed process may not have written its first record.
        assert run["id"] in (None, run_ids["wandb"])
        for row in run["history"]:
            rows[row["step"]] = {name: row.get(name) for name in expected[row["step"]]}
    assert curves(rows) == curves(expected)
    resumed = runs[-1]
    assert (resumed["name"], resumed["project"]) == ("colors", "align-keras")
    assert resumed["config"]["trainer"]["train_steps"] == max(expected)
    assert resumed["artifacts"]["report"] == ["report.html"]
    assert resumed["artifacts"]["model-card"] == ["README.md"]


READ_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
project = "align-keras"
runs = {
    record["name"]: SQLiteStorage.get_logs(project, record["name"])
    for record in SQLiteStorage.get_run_records(project)
}
configs = [SQLiteStorage.get_run_config(project, name) for name in runs]
artifacts = sorted(item["name"] for item in SQLiteStorage.list_artifacts(project))
json.dump([runs, configs, artifacts], sys.stdout)
"""


def test_trackio_has_one_run_with_each_step(folder, expected, run_ids):
    output = subprocess.check_output(
        [sys.executable, "-c", READ_TRACKIO], env=environment(folder), text=True
    )
    runs, [config], artifacts = json.loads(output)
    name = run_ids["trackio"]
    assert list(runs) == [name] and name.startswith("colors-")
    rows = {
        row["step"]: {metric: row.get(metric) for metric in expected[row["step"]]}
        for row in runs[name]
    }
    assert curves(rows) == curves(expected)
    assert config["task.model.image_encoder.image_size"] == 32
    assert artifacts == [f"{name}-model-card", f"{name}-report"]


def test_passwords_of_the_command_line_are_not_stored(folder):
    words = read_offline_runs(folder)[-1]["arguments"]
    assert "task.train_data.pairs=https://me:***@host/pairs.jsonl" in words
    for path in folder.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


class Refusal(http.server.BaseHTTPRequestHandler):
    """Server that refuses every request, and repeats the login of the request."""

    def do_POST(self):
        self.send_response(401)
        login = str(self.headers["Authorization"]).encode()
        self.send_header("Content-Length", str(len(login)))
        self.end_headers()
        self.wfile.write(login)

    do_GET = do_POST

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def refusing_server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


START = """
import pathlib, sys
from align_keras.config import ExperimentConfig, as_dict
from align_keras.training.trackers import start_trackers
from align_keras.utils.errors import InputError
for name in sys.argv[1:]:
    try:
        start_trackers([name], pathlib.Path("run"), as_dict(ExperimentConfig()))
    except InputError as error:
        print(error)
"""


def write_params(folder):
    (folder / "run").mkdir()
    (folder / "run" / "params.yaml").write_text("trainer: {}")


def test_a_wrong_login_stops_the_run_before_the_training(tmp_path, refusing_server):
    write_params(tmp_path)
    process = subprocess.run(
        [sys.executable, "-c", START, "mlflow", "wandb", "trackio"],
        cwd=tmp_path,
        env=environment(
            tmp_path,
            MLFLOW_TRACKING_URI=refusing_server,
            MLFLOW_TRACKING_TOKEN=PASSWORD,
            WANDB_MODE="online",
            WANDB_BASE_URL=refusing_server,
            WANDB_API_KEY=PASSWORD * 3,
            # The hub cannot be reached.
            TRACKIO_SPACE_ID="me/colors",
            HF_HUB_OFFLINE="1",
            HF_TOKEN=PASSWORD,
        ),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    messages = [line for line in lines if line.startswith("trainer.callbacks ")]
    remedies = {
        "mlflow": "Check MLFLOW_TRACKING_URI and the login of the server.",
        "wandb": "Run `wandb login`, check the network, or set WANDB_MODE=offline.",
        "trackio": "Check TRACKIO_SPACE_ID and HF_TOKEN.",
    }
    assert len(messages) == len(remedies)
    for message, (name, remedy) in zip(messages, remedies.items(), strict=True):
        assert f"Received: {name}, which failed with: " in message
        assert f"{remedy} To run without {name}, remove it from" in message
    assert PASSWORD not in process.stderr + process.stdout


OUTAGE = """
import pathlib, sys
from align_keras.config import ExperimentConfig, as_dict
from align_keras.training.trackers import run_trackers, start_trackers
run_trackers.RETRY_SECONDS = 0.0
config = as_dict(ExperimentConfig())
with start_trackers(["mlflow"], pathlib.Path("run"), config) as trackers:
    for line in sys.stdin:
        trackers.log(int(line), {"loss": 1.0 / int(line)})
        print("logged", flush=True)
"""


def start_mlflow_server(folder, port):
    """Starts MLflow's server, and waits until it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while True:
        assert server.poll() is None and time.monotonic() < deadline
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return server
        except OSError:
            time.sleep(0.2)


def stop(server):
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.mark.release
def test_mlflow_receives_the_metrics_after_a_crash_of_its_server(tmp_path):
    from mlflow import MlflowClient

    write_params(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start_mlflow_server(tmp_path, port)
    training = subprocess.Popen(
        [sys.executable, "-c", OUTAGE],
        cwd=tmp_path,
        env=environment(tmp_path, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def log(step):
        training.stdin.write(f"{step}\n")
        training.stdin.flush()
        assert training.stdout.readline() == "logged\n", training.communicate()

    try:
        log(2)
        stop(server)
        log(4)
        log(6)
        server = start_mlflow_server(tmp_path, port)
        _, messages = training.communicate("8\n", timeout=200)
    finally:
        training.kill()
        stop(server)
    assert training.returncode == 0, messages
    assert messages.count("warning: mlflow fails to log step 4") == 1
    assert "step 6" not in messages
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("align-keras")
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in history] == [2, 4, 6, 8]
    assert run.info.status == "FINISHED"


@pytest.mark.release
def test_mode_index_adds_the_report_to_the_same_run(folder, run_ids):
    run = folder / "runs" / "colors"
    command = [sys.executable, "-m", "align_keras.cli.main", "train", "--mode", "index"]
    command += ["--config_file", str(run / "params.yaml"), "--model_dir", str(run)]
    subprocess.run(command, cwd=folder, env=environment(folder), check=True)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    path = client.download_artifacts(run_ids["mlflow"], "report.html", folder)
    assert pathlib.Path(path).read_bytes() == (run / "report.html").read_bytes()
    assert "Report of the run" not in pathlib.Path(path).read_text()
    newest = read_offline_runs(folder)[-1]
    assert newest["id"] == run_ids["wandb"] and not newest["history"]
    assert newest["artifacts"]["report"] == ["report.html"]
