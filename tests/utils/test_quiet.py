"""What native libraries print is heard by nobody; what fails is."""

import subprocess
import sys

import pytest

SCRIPT = """
import importlib.util, sys
from align_keras.utils.quiet import silence_tensorflow
silence_tensorflow()
silence_tensorflow()
assert "tensorflow" not in sys.modules
importlib.util.find_spec("tensorflow")  # As who asks whether it is installed.
import tensorflow
import os
os.write(2, b"heard")
"""


def run(script):
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.release
def test_tensorflow_is_imported_in_silence():
    found = run(SCRIPT)
    assert (found.returncode, found.stderr) == (0, "heard")


def test_a_failing_import_is_told(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os; os.write(2, b'a ' + b'note'); raise ImportError('no such wheel')"
    )
    found = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + SCRIPT)
    assert found.returncode == 1
    assert "ImportError: no such wheel" in found.stderr
    assert "a note" not in found.stderr and "heard" not in found.stderr
