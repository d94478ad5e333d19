"""Atomic files and folders under a kill and under a real write error."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from align_keras.utils.files import atomic_folder, atomic_write

KILLED = """
import os, signal
from align_keras.utils.files import atomic_folder, atomic_write
with atomic_write({path!r}) as file:
    file.write("half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
FULL = """
import resource
from align_keras.utils.files import atomic_write
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with atomic_write({path!r}) as file:
    file.write("x" * 100_000)
"""


def run(script, path):
    code = textwrap.dedent(script).format(path=str(path))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_kill_in_the_middle_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    assert run(KILLED, path).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    with atomic_write(path) as file:
        file.write("new")
    assert path.read_text() == "new"


def test_write_error_leaves_nothing(tmp_path):
    process = run(FULL, tmp_path / "a.txt")
    assert "OSError" in process.stderr
    assert os.listdir(tmp_path) == []


def test_folder_replaces_as_a_whole_and_cleans_leftovers(tmp_path):
    target = tmp_path / "export"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("1")
    (tmp_path / ".export.12345678.tmp").mkdir()
    with pytest.raises(RuntimeError), atomic_folder(target) as folder:
        (folder / "b").write_text("2")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["export"]
    assert os.listdir(target) == ["a"]
    with atomic_folder(target) as folder:
        (folder / "b").write_text("2")
    assert os.listdir(target) == ["b"]
