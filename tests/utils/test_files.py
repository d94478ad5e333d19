"""Atomic files and folders under a kill and under a real write error."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from align_keras.utils.errors import InputError
from align_keras.utils.files import (
    atomic_folder,
    atomic_write,
    locked,
    placeable_folder,
)

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


def test_a_name_with_wildcards_removes_no_neighbors(tmp_path):
    others = [".other.12345678.tmp", ".a*b.notes.tmp", ".acb.12345678.tmp"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".a*b.12345678.tmp").mkdir()
    with atomic_folder(tmp_path / "a*b"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "a*b"])


def test_names_that_no_folder_can_take(tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(own)
    for name, problem in (
        ("", "current folder"),
        (".", "current folder"),
        ("new/..", "current folder"),
        ("..", "current folder"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "new", "file is a file"),
        (tmp_path / "circle", "followed|is a file"),
        ("/proc", "disk is mounted"),
    ):
        with pytest.raises(InputError, match=f"--to must .*{problem}.*; name another"):
            placeable_folder(name, "--to")
    assert sorted(os.listdir(tmp_path)) == ["circle", "file", "own"]


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="can't be written to"):
        placeable_folder(tmp_path / "a" / "b", "--to")


def test_a_link_means_what_it_points_to(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "missing"):
        link = tmp_path / f"to_{name}"
        link.symlink_to(name)
        with atomic_folder(placeable_folder(link, "--to")) as folder:
            (folder / "a").write_text("1")
        assert link.is_symlink()
        assert (tmp_path / name / "a").read_text() == "1"


def test_locked_keeps_blocks_apart(tmp_path):
    path, inside, most = tmp_path / "a.txt", [], []

    def enter():
        with locked(path):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4
    assert not path.exists()
