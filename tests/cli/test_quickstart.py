"""`align-keras quickstart` with user pairs: results, resumption and wrong input."""

import json
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from align_keras.cli.main import main
from tests.helpers.small_run import SMALL, draw, write_pairs

COMMAND = [sys.executable, "-m", "align_keras.cli.main"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def arguments(pairs, run, *options):
    """Returns the words of a command that trains in seconds."""
    return [
        "quickstart",
        f"--pairs={pairs}",
        f"--model_dir={run}",
        f"--data_dir={run}_data",
        f"--params_override={SMALL}",
        *options,
    ]


def read_metrics(run):
    """Returns the logged metrics without those that depend on the clock."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    values = [json.loads(line) for line in lines]
    for metrics in values:
        metrics.pop("pairs_per_second", None)
        metrics.pop("input_wait_fraction", None)
    return values


@pytest.fixture(scope="module")
def undisturbed(pairs, tmp_path_factory):
    """Folder of a run that was never interrupted, and its finished process."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    process = subprocess.run(
        [*COMMAND, *arguments(pairs, run, "--json")], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return run, process


@pytest.mark.release
def test_mode_index_restores_the_export_and_index_of_a_run(
    undisturbed, tmp_path, capsys
):
    run = shutil.copytree(undisturbed[0], tmp_path / "run")
    for name in ("export", "index"):
        shutil.rmtree(run / name)
    query = ["--json", "a red ring"]
    assert main(["search", f"--model_dir={run}", *query]) == 1
    command = re.search(r"`align-keras (.*)`", capsys.readouterr().err)[1]
    assert main([*shlex.split(command), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["t2i/recall_at_1"] >= 0
    hits_of_runs = []
    for folder in (run, undisturbed[0]):
        assert main(["search", f"--model_dir={folder}", *query]) == 0
        [query_result] = json.loads(capsys.readouterr().out)["queries"]
        hits_of_runs.append(
            [(hit["id"], hit["captions"]) for hit in query_result["hits"]]
        )
    assert hits_of_runs[0] == hits_of_runs[1] != []


@pytest.mark.release
def test_the_run_folder_is_complete(undisturbed):
    run, process = undisturbed
    metrics = json.loads(process.stdout)
    assert {
        f"{direction}/recall_at_{k}" for direction in ("i2t", "t2i") for k in (1, 5, 10)
    } <= set(metrics)
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "params.yaml",
        "metrics.jsonl",
        "checkpoints",
        "tensorboard",
        "export",
        "index",
        "report.html",
        "config.json",
        "model.weights.h5",
        "assets",
    }
    assert not [name for name in names if name.endswith(".tmp")]
    assert (run / "export" / "serving" / "models.config").exists()
    steps = [line["step"] for line in read_metrics(run) if "loss" in line]
    assert steps == [2, 4, 6, 8]
    assert "pairs/s" in process.stderr or "done in" in process.stderr
    assert "data:image/" in (run / "report.html").read_text()
    findings = json.loads((run / "findings.json").read_text())
    # On a busy machine, the input may be slower than the steps.
    assert {finding["name"] for finding in findings} <= {"slow_input"}


@pytest.mark.release
def test_the_run_can_be_searched(undisturbed, capsys):
    run, _ = undisturbed
    assert main(["search", f"--model_dir={run}", "a red circle", "--json"]) == 0
    assert "red" in capsys.readouterr().out


@pytest.mark.release
def test_params_yaml_reproduces_the_run(undisturbed, tmp_path, capsys):
    run, _ = undisturbed
    second_run = tmp_path / "again"
    code = main(
        [
            "train",
            f"--config_file={run / 'params.yaml'}",
            f"--model_dir={second_run}",
            "--json",
        ]
    )
    assert code == 0
    capsys.readouterr()
    assert read_metrics(second_run) == read_metrics(run)
    assert (second_run / "params.yaml").read_text() == (run / "params.yaml").read_text()
    code = main(
        [
            "train",
            f"--config_file={run / 'params.yaml'}",
            f"--model_dir={second_run}",
            "--mode=eval",
            "--json",
        ]
    )
    assert code == 0
    eval_metrics = json.loads(capsys.readouterr().out)
    last_metrics = [line for line in read_metrics(run) if "t2i/recall_at_10" in line][
        -1
    ]
    assert eval_metrics["t2i/recall_at_10"] == pytest.approx(
        last_metrics["t2i/recall_at_10"]
    )


def kill_when(process, condition, timeout=300):
    """Kills the process when a condition is met.

    Returns:
        bool, False if the process ended before the condition was met.
    """
    end = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < end:
        if condition():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.005)
    process.kill()
    return False


# Moments at which the process is killed → function of the run folder that returns True
# when the moment is reached.
MOMENTS = {
    "corpus": lambda run: any(pathlib.Path(f"{run}_data").rglob("*incomplete*")),
    "vocabulary": lambda run: (
        (run / "params.yaml").exists()
        and any(pathlib.Path(f"{run}_data").rglob("dataset_info.json"))
    ),
    "first checkpoint": lambda run: (run / "checkpoints").exists(),
    "training": lambda run: (run / "metrics.jsonl").exists(),
    "checkpoint": lambda run: any((run / "checkpoints").glob("ckpt-4*")),
    "export": lambda run: any(run.glob(".export*")) or (run / "export").exists(),
    "index": lambda run: (run / "index").exists(),
}


@pytest.mark.release
def test_a_killed_run_resumes_with_the_same_results(
    undisturbed, pairs, tmp_path_factory
):
    undisturbed_run, _ = undisturbed
    run = tmp_path_factory.mktemp("killed") / "run"
    killed_moments = []
    for name, condition in MOMENTS.items():
        with subprocess.Popen(
            [*COMMAND, *arguments(pairs, run)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            if kill_when(process, lambda condition=condition: condition(run)):
                killed_moments.append(name)
    assert len(killed_moments) >= 5
    process = subprocess.run(
        [*COMMAND, *arguments(pairs, run)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert read_metrics(run) == read_metrics(undisturbed_run)
    assert (run / "model.weights.h5").stat().st_size > 0
    assert not list(run.glob(".*.tmp"))
    vectors = [folder / "index" / "vectors.0.f32" for folder in (run, undisturbed_run)]
    assert vectors[0].read_bytes() == vectors[1].read_bytes()


@pytest.mark.release
def test_the_quickstart_runs_on_two_replicas(pairs, tmp_path):
    replicas = "runtime.distribution_strategy=mirrored,runtime.num_replicas=2"
    command = arguments(pairs, tmp_path / "run", f"--params_override={replicas}")
    process = subprocess.run([*COMMAND, *command], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run" / "report.html").exists()


# Wrong input: one line, exit code 1, no traceback


def last_error_line(capsys):
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err.strip().splitlines()[-1]


@pytest.mark.release
def test_a_loss_of_nan_prints_one_line(pairs, tmp_path, capsys):
    override = (
        "--params_override=trainer.optimizer_config.learning_rate.type=constant,"
        "trainer.optimizer_config.learning_rate.constant.learning_rate=1e30"
    )
    assert main(arguments(pairs, tmp_path / "run", override)) == 1
    message = last_error_line(capsys)
    assert "isn't finite" in message
    assert "diagnosis.json" in message


@pytest.mark.release
def test_unreadable_images_are_counted_and_skipped(tmp_path, capsys):
    folder = tmp_path / "pairs"
    path = write_pairs(folder)
    (folder / "empty.png").touch()
    (folder / "torn.png").write_bytes((folder / "red_circle.png").read_bytes()[:80])
    draw("red", "cross").convert("CMYK").save(folder / "cmyk.jpg")
    with open(path, "a") as file:
        for name in ("empty.png", "torn.png", "gone.png", "cmyk.jpg"):
            file.write(json.dumps({"image": name, "caption": f"a {name}"}) + "\n")
    assert main(arguments(path, tmp_path / "run")) == 0
    captured = capsys.readouterr()
    report = (tmp_path / "run" / "report.html").read_text()
    for words in ("line 41: 0 bytes", "line 42", "truncated", "gone.png"):
        assert words in report
        assert words in captured.err
    assert "cmyk" in captured.err
