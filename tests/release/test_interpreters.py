"""The README's commands work with every Python version that setup.cfg allows.

The environment variable `PYTHONS` lists the interpreters. The default is python3.11 to
python3.14 on the path. TensorFlow needs python3.13 or earlier.
"""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NAMES = os.environ.get("PYTHONS", "python3.11 python3.12 python3.13 python3.14").split()
NAMES_WITH_TENSORFLOW = [name for name in NAMES if name != "python3.14"]
# The short quickstart and the installation take minutes.
pytestmark = [pytest.mark.release, pytest.mark.timeout(5400)]


def run(command, folder):
    """Runs a bash command in the environment of a folder. Returns the process."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHONPATH", "PYTEST", "VIRTUAL_ENV"))
    }
    variables |= {
        "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
        "TFDS_DATA_DIR": str(folder / "tensorflow_datasets"),
    }
    process = subprocess.run(
        ["bash", "-c", command],
        cwd=folder / "clone",
        env=variables,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, (process.stdout + process.stderr)[-5000:]
    return process


def clone_and_create_environment(name, folder):
    """Clones the last commit, and creates an environment of an interpreter."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} isn't installed")
    process = subprocess.run([program, "--version"], capture_output=True)
    if process.returncode:
        # pyenv also has programs for versions that are not installed.
        pytest.skip(f"{name} doesn't start")
    subprocess.run(["git", "clone", "-q", ROOT, folder / "clone"], check=True)
    subprocess.run([program, "-m", "venv", folder / "venv"], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_installation_without_tensorflow_works(name, tmp_path):
    clone_and_create_environment(name, tmp_path)
    run("pip install -q -e . && pip check && python tools/check_light.py", tmp_path)


@pytest.mark.parametrize("name", NAMES_WITH_TENSORFLOW)
def test_the_readme_commands_work(name, tmp_path):
    """Runs both commands in the same environment, in a clone of the last commit."""
    clone_and_create_environment(name, tmp_path)
    line = 'pip install -q -e ".[quickstart]" && align-keras quickstart'
    process = run(f"{line} --budget short --json", tmp_path)
    metrics = json.loads(process.stdout[process.stdout.index("{") :])
    for direction in ("i2t", "t2i"):
        chance = metrics[f"{direction}/chance_recall_at_10"]
        # .ci/run requires the same multiple of chance.
        assert metrics[f"{direction}/recall_at_10"] >= 5 * chance
    run('pip install -q -e ".[test]" && pytest -q && pip check', tmp_path)
