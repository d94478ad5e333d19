"""Processes that are killed by a signal."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Number of kills.
COUNT = pytest.mark.parametrize(
    "count",
    [
        pytest.param(2, marks=pytest.mark.ci),
        pytest.param(60, marks=pytest.mark.release),
    ],
)


def start(script, *arguments, **options):
    """Starts a Python script, and waits until it prints "ready".

    Args:
        script: Code of the script.
        *arguments: Arguments of the script.
        **options: Options of `subprocess.Popen`.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def kill_after(process, seconds):
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
