"""Tests of training with several workers: updates, lost workers, resumption."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers.hosts import hosts
from tests.helpers.small_run import SMALL, write_pairs
from tests.helpers.workers import ROOT, start_workers, wait

SCRIPT = ROOT / "tests" / "training" / "worker_script.py"
RATES = ("pairs_per_second", "input_wait_fraction")


def losses(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return {
        (line["step"], name): value
        for line in map(json.loads, lines)
        for name, value in line.items()
        if name not in RATES
    }


@pytest.mark.release
def test_two_workers_compute_the_updates_of_one_process(tmp_path):
    single = tmp_path / "single"
    shared = tmp_path / "shared"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, str(SCRIPT), str(single)], env=environment, check=True
    )
    wait(start_workers([str(SCRIPT), str(shared)], tmp_path), tmp_path)
    # The tolerance allows for another order of float32 sums over one or four steps.
    for name, limit in (("sgd_1", 1e-6), ("lamb_1", 1e-6), ("lamb_4", 2e-6)):
        expected = np.load(single / f"{name}.npz")
        actual = np.load(shared / f"{name}.npz")
        for path in expected.files:
            if "seed_generator" not in path:
                message = f"{name}: {path}"
                np.testing.assert_allclose(
                    actual[path], expected[path], atol=limit, err_msg=message
                )


def command(pairs, directory, steps=240, batch_size=8):
    overrides = ",".join(
        [
            SMALL,
            "task.train_data.corpus=pairs",
            "task.validation_data.corpus=pairs",
            f"task.train_data.pairs={pairs}",
            f"task.validation_data.pairs={pairs}",
            f"task.train_data.tfds_data_dir={directory.parent / 'data'}",
            f"task.validation_data.tfds_data_dir={directory.parent / 'data'}",
            "task.train_data.shuffle_buffer_size=40",
            f"task.train_data.global_batch_size={batch_size}",
            f"trainer.train_steps={steps}",
            "trainer.checkpoint_interval=20",
            f"trainer.validation_interval={steps}",
            "runtime.distribution_strategy=multi_worker_mirrored",
        ]
    )
    return ["-m", "align_keras.cli.main", "train", f"--params_override={overrides}"] + [
        f"--model_dir={directory}"
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Pairs, and the losses of an uninterrupted run with two workers."""
    folder = tmp_path_factory.mktemp("undisturbed")
    pairs = write_pairs(folder / "pairs")
    wait(start_workers(command(pairs, folder / "run"), folder), folder)
    # Only the chief logs to a tracker.
    assert len(list((folder / "run" / "tensorboard").iterdir())) == 1
    return pairs, losses(folder / "run")


def start_and_signal(arguments, outputs, log, step, victim, signal_number, hosts=None):
    """Starts workers, and sends a signal to one of them at a step.

    Returns:
        The workers, and the time of the signal.
    """
    workers = start_workers(arguments, outputs, hosts)
    deadline = time.monotonic() + 600
    # The log has one line for every two steps.
    while not (log.exists() and log.read_text().count("\n") >= step // 2):
        assert time.monotonic() < deadline
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.05)
    workers[victim].send_signal(signal_number)
    return workers, time.monotonic()


@pytest.mark.release
def test_a_run_survives_the_death_of_either_worker_and_sigterm(tmp_path, undisturbed):
    pairs, expected = undisturbed
    directory = tmp_path / "run"
    arguments = command(pairs, directory)
    log = directory / "metrics.jsonl"
    for step, victim in ((30, 0), (70, 1)):
        workers, killed_at = start_and_signal(
            arguments, tmp_path, log, step, victim, signal.SIGKILL
        )
        survivor = 1 - victim
        code = workers[survivor].wait(timeout=120)
        assert time.monotonic() - killed_at < 60
        text = (tmp_path / f"worker_{survivor}.err").read_text()
        assert code == 1, text[-3000:]
        assert "Another process" in text.splitlines()[-1]
        assert "Traceback" not in text
    # SIGTERM to either worker ends both after the same step.
    workers, _ = start_and_signal(arguments, tmp_path, log, 110, 1, signal.SIGTERM)
    wait(workers, tmp_path, 120)
    texts = [(tmp_path / f"worker_{index}.err").read_text() for index in range(2)]
    assert all("same command again" in text for text in texts)
    (saved,) = {re.search(r"terminated after step (\d+)", text)[1] for text in texts}
    wait(start_workers(arguments, tmp_path), tmp_path)
    text = (tmp_path / "worker_0.err").read_text()
    assert f"resuming at step {saved} of 240" in text
    assert losses(directory) == expected


@pytest.mark.release
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count, batch_size", [(2, 8), (3, 12)])
def test_a_run_resumes_after_a_host_is_lost(tmp_path, count, batch_size):
    """Each host is a network namespace with an address and one worker."""
    pairs = write_pairs(tmp_path / "pairs")
    options = {"steps": 40, "batch_size": batch_size}
    with hosts(count) as several:
        uninterrupted = command(pairs, tmp_path / "uninterrupted", **options)
        wait(start_workers(uninterrupted, tmp_path, several), tmp_path)
        arguments = command(pairs, tmp_path / "run", **options)
        log = tmp_path / "run" / "metrics.jsonl"
        victim = count - 1
        workers, _ = start_and_signal(
            arguments, tmp_path, log, 24, victim, signal.SIGKILL, several
        )
        for index in range(victim):
            assert workers[index].wait(timeout=120) == 1
            text = (tmp_path / f"worker_{index}.err").read_text()
            assert "Another process" in text.splitlines()[-1]
        wait(start_workers(arguments, tmp_path, several), tmp_path)
        text = (tmp_path / "worker_0.err").read_text()
        assert "resuming at step 20 of 40" in text
    assert losses(tmp_path / "run") == losses(tmp_path / "uninterrupted")
