"""Atomic writes after kills and write errors, path checks, and file locks."""

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
    hold,
    is_special,
    locked,
    open_regular,
    placeable_folder,
    read_regular,
)

KILL_DURING_WRITE = """
import os, signal
from align_keras.utils.files import atomic_folder, atomic_write
with atomic_write({path!r}) as file:
    file.write("half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
EXCEED_FILE_SIZE_LIMIT = """
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


@pytest.mark.ci
def test_a_kill_during_a_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    assert run(KILL_DURING_WRITE, path).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    with atomic_write(path) as file:
        file.write("new")
    assert path.read_text() == "new"


@pytest.mark.ci
def test_a_write_error_leaves_no_file(tmp_path):
    process = run(EXCEED_FILE_SIZE_LIMIT, tmp_path / "a.txt")
    assert "OSError" in process.stderr
    assert os.listdir(tmp_path) == []


def test_a_folder_is_replaced_as_a_whole_and_old_temporary_folders_are_removed(
    tmp_path,
):
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


def test_a_name_with_wildcards_removes_no_other_files(tmp_path):
    unrelated_files = [".other.12345678.tmp", ".a*b.notes.tmp", ".acb.12345678.tmp"]
    for name in unrelated_files:
        (tmp_path / name).write_text("text")
    (tmp_path / ".a*b.12345678.tmp").mkdir()
    with atomic_folder(tmp_path / "a*b"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*unrelated_files, "a*b"])


def test_unusable_folder_paths_are_refused(tmp_path, monkeypatch):
    current = tmp_path / "current"
    current.mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(current)
    for name, problem in (
        ("new/..", "current folder"),
        ("..", "current folder"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "new", "file is a file"),
        ("/proc", "disk is mounted"),
    ):
        with pytest.raises(InputError, match=f"--to.*{problem}"):
            placeable_folder(name, "--to")
    assert sorted(os.listdir(tmp_path)) == ["current", "file"]


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_read_only_parent_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="--to.*be written"):
        placeable_folder(tmp_path / "a" / "b", "--to")


def test_a_link_is_replaced_by_its_target(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "missing"):
        link = tmp_path / f"to_{name}"
        link.symlink_to(name)
        with atomic_folder(placeable_folder(link, "--to")) as folder:
            (folder / "a").write_text("1")
        assert link.is_symlink()
        assert (tmp_path / name / "a").read_text() == "1"


def test_locked_blocks_run_one_at_a_time(tmp_path):
    path, active_threads, active_counts = tmp_path / "a.txt", [], []

    def enter():
        with locked(path):
            active_threads.append(1)
            active_counts.append(len(active_threads))
            time.sleep(0.01)
            active_threads.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert active_counts == [1] * 4
    assert not path.exists()


@pytest.mark.ci
def test_a_lock_has_one_holder_and_is_released_with_its_process(tmp_path):
    file = tmp_path / "a.lock"
    script = f"""
        import time
        from align_keras.utils.files import hold
        lock = hold({str(file)!r})
        print("acquired", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process, process.stdout as stdout:
        assert stdout.readline() == "acquired\n"
        assert hold(file) is None
        process.kill()
    with hold(file) as lock:
        assert lock is not None and hold(file) is None
    assert hold(file) is not None


def test_a_second_writer_of_a_folder_is_refused(tmp_path):
    target = tmp_path / "export"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("1")
        with pytest.raises(InputError, match="export"):
            with atomic_folder(target):
                pass
        assert (folder / "a").exists()
    assert os.listdir(target) == ["a"] and os.listdir(tmp_path) == ["export"]


KILL_DURING_REPLACEMENT = """
import os, signal
from align_keras.utils import files
replace = os.replace
def replace_and_die(source, to):
    replace(source, to)
    os.kill(os.getpid(), signal.SIGKILL)
with files.atomic_folder({path!r}) as folder:
    (folder / "b").write_text("new")
    os.replace = replace_and_die
"""


@pytest.mark.ci
def test_a_kill_during_a_replacement_restores_the_old_folder(tmp_path, capsys):
    target = tmp_path / "export"
    target.mkdir()
    (target / "a").write_text("old")
    assert run(KILL_DURING_REPLACEMENT, target).returncode == -signal.SIGKILL
    assert not target.exists()
    with pytest.raises(RuntimeError), atomic_folder(target):
        assert (target / "a").read_text() == "old"
        raise RuntimeError
    assert os.listdir(tmp_path) == ["export"] and os.listdir(target) == ["a"]
    assert capsys.readouterr().err.splitlines() == [
        f"restored {target} after its replacement was interrupted",
        f"removing temporary files of an interrupted write of {target}",
    ]


def test_a_link_is_preserved_and_a_special_file_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "page.html"
    for name in ("real/old.html", "real/new.html"):
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        with atomic_write(link) as file:
            file.write("page")
        assert link.is_symlink() and (tmp_path / name).read_text() == "page"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "to_pipe", "/dev/full", tmp_path):
        with pytest.raises(InputError, match="regular file"):
            with atomic_write(path):
                pass
    assert sorted(os.listdir(tmp_path)) == ["page.html", "pipe", "real", "to_pipe"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "a\0b", "folder", "missing"])
def test_only_regular_files_are_read(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = os.path.join(tmp_path, name)
    assert is_special(path) is (name in ("pipe", "/dev/zero"))
    for function in (open_regular, read_regular):
        with pytest.raises(OSError) as caught:
            function(path)
        assert caught.value.filename == path and caught.value.strerror


def test_a_file_above_the_size_limit_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"cat")
    (tmp_path / "link").symlink_to(path)
    assert read_regular(tmp_path / "link", 3) == b"cat"
    with pytest.raises(OSError, match="2 bytes"):
        read_regular(path, 2)
    # The file uses no disk space, but its content would fill the memory.
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match="512,000,000"):
        read_regular(path)
