"""Suppressed start-up messages of native libraries."""

import subprocess
import sys

import pytest

SCRIPT = """
import importlib.util, sys
from align_keras.utils.quiet import silence_tensorflow
silence_tensorflow()
silence_tensorflow()
assert "tensorflow" not in sys.modules
importlib.util.find_spec("tensorflow")  # Other code checks whether it is installed.
import tensorflow
import os
os.write(2, b"printed")
"""


def run(script):
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.release
def test_importing_tensorflow_prints_nothing():
    process = run(SCRIPT)
    assert (process.returncode, process.stderr) == (0, "printed")


@pytest.mark.ci
def test_a_failing_import_prints_its_exception(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os; os.write(2, b'a ' + b'note'); raise ImportError('no such wheel')"
    )
    process = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + SCRIPT)
    assert process.returncode == 1
    assert "ImportError: no such wheel" in process.stderr
    assert "a note" not in process.stderr and "printed" not in process.stderr
