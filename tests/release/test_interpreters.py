"""README's two commands on each Python that setup.cfg allows.

`PYTHONS` names the interpreters; without it they are looked for on the path.
"""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NAMES = (os.environ.get("PYTHONS") or "python3.11 python3.12 python3.13").split()
# The training of the short quickstart takes minutes, and so does installing.
pytestmark = [pytest.mark.release, pytest.mark.timeout(5400)]


def run(command, folder):
    """Runs a line by bash in the environment of the folder; returns the process."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHONPATH", "PYTEST", "VIRTUAL_ENV"))
    }
    variables |= {
        "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
        "TFDS_DATA_DIR": str(folder / "tensorflow_datasets"),
    }
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder / "clone",
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done


@pytest.mark.parametrize("name", NAMES)
def test_both_commands(name, tmp_path):
    """One after the other in one environment, in a clone of what is committed."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} isn't installed")
    done = subprocess.run([program, "--version"], capture_output=True)
    if done.returncode:  # pyenv has a program for each version, installed or not.
        pytest.skip(f"{name} doesn't start")
    subprocess.run(["git", "clone", "-q", ROOT, tmp_path / "clone"], check=True)
    subprocess.run([program, "-m", "venv", tmp_path / "venv"], check=True)
    line = 'pip install -q -e ".[quickstart]" && align-keras quickstart'
    done = run(f"{line} --budget short --json", tmp_path)
    metrics = json.loads(done.stdout[done.stdout.index("{") :])
    for way in ("i2t", "t2i"):
        chance = metrics[f"{way}/chance_recall_at_10"]
        # As in .ci/run.
        assert metrics[f"{way}/recall_at_10"] >= 5 * chance
    run('pip install -q -e ".[test]" && pytest -q && pip check', tmp_path)
