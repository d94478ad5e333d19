"""Atomic uploads of folders to object stores by one process at a time."""

import json
import pathlib
import threading
import time

import fsspec
import pytest

from align_keras.utils import mirror, remote, remote_requests
from align_keras.utils.errors import InputError
from align_keras.utils.mirror import mirrored

URL = "memory://bucket/corpus"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Returns a function that simulates a machine with its own cache."""

    def switch_to(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    monkeypatch.setattr(remote_requests, "FIRST_PAUSE", 0.0)
    switch_to("first")
    return switch_to


@pytest.fixture
def store(machine):
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    fs.store.clear()
    remote.clear_caches()
    yield fs
    fs.store.clear()


def object_names(store):
    """Returns the names of all objects except pointers and changed files."""
    names = (name.removeprefix("/bucket/corpus/") for name in store.find("/bucket"))
    return sorted(name for name in names if not name.startswith(".align_keras"))


def read_files(folder):
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)


def test_another_machine_sees_written_files(store, machine):
    with mirrored(URL, "out") as folder:
        write(folder, a="1", sub__b="22", **{".lock": "x"})
    assert (
        object_names(store) == ["a", "sub/b"]
        and store.cat("/bucket/corpus/sub/b") == b"22"
    )
    machine("second")
    with mirrored(URL, "out") as folder:
        assert read_files(folder) == {"a": b"1", "sub/b": b"22"}
        write(folder, a="3", c="4")
        (folder / "sub/b").unlink()
    # Only the new file has an object with its name.
    assert object_names(store) == ["c"]
    machine("first")
    with mirrored(URL, "out", writes=False) as folder:
        assert read_files(folder) == {"a": b"3", "c": b"4"}


def test_only_changed_files_are_uploaded(store, capsys, monkeypatch):
    with mirrored(URL) as folder:
        write(folder, a="1", b="2")
    uploaded_files = []
    put_file = type(store).put_file

    def record_file(self, file, target, **options):
        put_file(self, file, target, **options)
        uploaded_files.append(pathlib.Path(file).name)

    monkeypatch.setattr(type(store), "put_file", record_file)
    capsys.readouterr()
    with mirrored(URL) as folder:
        assert "downloading" not in capsys.readouterr().err
        write(folder, b="3")
    assert uploaded_files == ["b"]


class Killed(BaseException):
    """Error that simulates the kill of a process."""


def test_a_kill_at_any_request_leaves_the_old_or_the_new_files(
    store, machine, monkeypatch
):
    methods = ("pipe_file", "rm_file", "put_file")
    original_methods = {name: getattr(type(store), name) for name in methods}
    allowed_requests = 0

    def limited(name):
        def call(self, *args, **options):
            nonlocal allowed_requests
            if allowed_requests <= 0:
                raise Killed
            allowed_requests -= 1
            return original_methods[name](self, *args, **options)

        return call

    old, new = {"a": b"1", "b": b"1"}, {"a": b"2", "c": b"2"}
    reader_saw_new = set()
    for name in methods:
        monkeypatch.setattr(type(store), name, limited(name))
    for count in range(2, 40):
        store.store.clear()
        remote.clear_caches()
        allowed_requests = 1000
        machine(f"writer{count}")
        with mirrored(URL) as folder:
            write(folder, a="1", b="1")
        allowed_requests = count
        killed = False
        try:
            with mirrored(URL) as folder:
                write(folder, a="2", c="2")
                (folder / "b").unlink()
        except Killed:
            killed = True
        allowed_requests = 1000
        machine(f"reader{count}")
        with mirrored(URL, writes=False) as folder:
            files = read_files(folder)
        assert files in (old, new)
        reader_saw_new.add(files == new)
        machine(f"writer{count}")
        with mirrored(URL) as folder:
            assert {**read_files(folder), **new} == read_files(folder)
            # The kill may have lost the removal, so the writer repeats it.
            (folder / "b").unlink(missing_ok=True)
            write(folder, a="3")
        with mirrored(URL, writes=False) as folder:
            assert read_files(folder) == {"a": b"3", "c": b"2"}
        names = store.find("/bucket/corpus/.align_keras")
        [pointer] = [name for name in names if name.endswith(".json")]
        entries = json.loads(store.cat(pointer))["files"]
        # The objects of older pointers are gone.
        assert len(names) == 1 + sum(key != name for name, (key, *_) in entries.items())
        if not killed:
            break
    assert reader_saw_new == {True, False} and not killed


def test_a_second_writer_is_refused(store, machine):
    with pytest.raises(InputError, match="out"):
        with mirrored(URL, "out") as first:
            write(first, a="1")
            with pytest.raises(InputError, match="on this machine"):
                with mirrored(URL, "out"):
                    pass
            machine("second")
            with mirrored(URL, "out") as second:
                write(second, a="2")
    assert read_files(first) == {"a": b"1"}  # The local changes are kept.
    with mirrored(URL, writes=False) as folder:
        assert read_files(folder) == {"a": b"2"}


def test_a_writer_stops_soon_after_another_has_written(store, machine, monkeypatch):
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_PUSHES", 0.02)
    with pytest.raises(InputError, match="one process"):
        with mirrored(URL) as first:
            machine("second")
            with mirrored(URL, pushes=False) as second:
                write(second, a="2")
            write(first, a="1")
            for _ in range(1_000):
                time.sleep(0.02)  # The upload interrupts a short sleep.
            pytest.fail("the first writer was not stopped")


def test_one_of_two_simultaneous_writers_is_refused(store, machine, monkeypatch):
    find = type(store).find

    def find_no_pointer(self, path, *arguments, **options):
        if path.endswith("/.align_keras"):
            return {}
        return find(self, path, *arguments, **options)

    with mirrored(URL) as folder:
        write(folder, a="1")
    machine("second")
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "find", find_no_pointer)
        patch.setattr(mirror, "list_url", lambda _: [])
        with pytest.raises(InputError, match="one process"):
            with mirrored(URL) as folder:
                write(folder, a="2")


def test_a_folder_of_another_format_is_refused(store):
    store.pipe("/bucket/corpus/.align_keras/00000003.json", b'{"files": {}}')
    for writes in (True, False):
        with pytest.raises(InputError, match="format"):
            with mirrored(URL, "out", writes=writes):
                pass


def test_a_killed_writer_continues_with_its_changes_unless_another_has_written(
    store, machine
):
    with mirrored(URL) as folder:
        write(folder, a="1")
    # A killed writer leaves changes that were not uploaded.
    write(folder, a="unsynced", b="unsynced")
    with mirrored(URL) as folder:
        assert read_files(folder) == {"a": b"unsynced", "b": b"unsynced"}
    write(folder, a="lost", c="lost")
    machine("second")
    with mirrored(URL) as second_folder:
        write(second_folder, a="2")
    machine("first")
    with mirrored(URL) as folder:
        assert read_files(folder) == {"a": b"2", "b": b"unsynced"}


def test_files_are_uploaded_after_an_error_of_the_block(store):
    with pytest.raises(ZeroDivisionError):
        with mirrored(URL) as folder:
            write(folder, a="1")
            raise ZeroDivisionError
    assert object_names(store) == ["a"]


def test_a_block_without_files_leaves_no_objects(store):
    with mirrored(URL):
        pass
    assert store.find("/bucket") == []


def test_files_are_uploaded_before_the_block_ends(store, monkeypatch):
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_PUSHES", 0.02)
    uploaded = threading.Event()
    pipe_file = type(store).pipe_file

    def signal_upload(self, path, content, mode):
        pipe_file(self, path, content, mode=mode)
        uploaded.set()

    monkeypatch.setattr(type(store), "pipe_file", signal_upload)
    with mirrored(URL) as folder:
        write(folder, a="1")
        assert uploaded.wait(20)


def test_a_folder_without_a_pointer_is_downloaded_once(store, machine, capsys):
    store.pipe({"/bucket/data/x/a.jpg": b"1", "/bucket/data/b.jpg": b"2"})
    for message in ("downloading 2 files", ""):
        with mirrored("memory://bucket/data", writes=False) as folder:
            assert read_files(folder) == {"x/a.jpg": b"1", "b.jpg": b"2"}
        assert message in capsys.readouterr().err or not message
    store.pipe("/bucket/data/b.jpg", b"3")
    with mirrored("memory://bucket/data", writes=False) as folder:
        assert read_files(folder)["b.jpg"] == b"3"
    assert "downloading 1 files" in capsys.readouterr().err


def test_a_single_file_is_uploaded_unless_the_block_fails(store, machine):
    url = "memory://bucket/out.parquet"
    with pytest.raises(ZeroDivisionError):
        with mirrored(url) as file:
            file.write_text("half")
            raise ZeroDivisionError
    assert not store.exists("/bucket/out.parquet")
    with mirrored(url) as file:
        file.write_text("whole")
    assert store.cat("/bucket/out.parquet") == b"whole"
    machine("second")
    with mirrored(url, writes=False) as file:
        assert file.read_text() == "whole" and file.name == "out.parquet"


@pytest.mark.parametrize(
    ("url", "writes", "message"),
    [
        ("memory://bucket/full", True, "a.txt"),
        ("https://e.org/x", True, "https://e.org/x"),
        ("memory://bucket/bad", False, "'../a'"),
    ],
)
def test_unusable_addresses_are_refused(store, tmp_path, url, writes, message):
    store.pipe("/bucket/full/a.txt", b"1")
    pointer = {"version": 1, "files": {"../a": ["a", 1, ""]}}
    store.pipe("/bucket/bad/.align_keras/00000001.json", json.dumps(pointer).encode())
    with pytest.raises(InputError, match=message):
        with mirrored(url, "out", writes=writes):
            pass
    assert not list(tmp_path.rglob("a"))


def test_an_empty_folder_has_nothing_to_read(store):
    with pytest.raises(FileNotFoundError, match="empty"):
        with mirrored(URL, writes=False):
            pass


def test_an_object_of_a_pointer_is_never_overwritten(store, machine, monkeypatch):
    """The store ignores the mode "create", as the GCS emulator does."""
    put_file = type(store).put_file

    def put_in_any_mode(self, source, target, mode="overwrite"):
        return put_file(self, source, target)

    monkeypatch.setattr(type(store), "put_file", put_in_any_mode)
    with mirrored(URL) as folder:
        write(folder, a="1")
    with pytest.raises(Killed):
        with mirrored(URL) as folder:
            write(folder, a="2")
            monkeypatch.setattr(type(store), "pipe_file", raise_killed)
    machine("second")
    with mirrored(URL, writes=False) as folder:
        assert read_files(folder) == {"a": b"1"}


def raise_killed(self, *args, **options):
    raise Killed
