"""Folders of stores are written whole or not at all, and by one process at a time."""

import json
import pathlib
import threading

import fsspec
import pytest

from align_keras.utils import mirror, remote
from align_keras.utils.errors import InputError
from align_keras.utils.mirror import mirrored

URL = "memory://bucket/corpus"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Sets which machine this is, by its cache."""

    def become(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        monkeypatch.setattr(mirror.socket, "gethostname", lambda: name)

    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.0)
    become("first")
    return become


@pytest.fixture
def store(machine):
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    fs.store.clear()
    remote.clear_caches()
    yield fs
    fs.store.clear()


def plain(store):
    """The objects that aren't the mirror's."""
    names = (name.removeprefix("/bucket/corpus/") for name in store.find("/bucket"))
    return sorted(name for name in names if not name.startswith(".align_keras"))


def content(folder):
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)


def test_what_is_written_is_there_and_elsewhere(store, machine):
    with mirrored(URL, "out") as folder:
        write(folder, a="1", sub__b="22", **{".lock": "x"})
    assert plain(store) == ["a", "sub/b"] and store.cat("/bucket/corpus/sub/b") == b"22"
    machine("second")
    with mirrored(URL, "out") as folder:
        assert content(folder) == {"a": b"1", "sub/b": b"22"}
        write(folder, a="3", c="4")
        (folder / "sub/b").unlink()
    assert plain(store) == ["a", "c"] and store.cat("/bucket/corpus/a") == b"3"
    machine("first")
    with mirrored(URL, "out", writes=False) as folder:
        assert content(folder) == {"a": b"3", "c": b"4"}


def test_only_what_changed_travels(store, capsys, monkeypatch):
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
    """A process that ends: not even its last wishes are carried out."""


def test_a_kill_at_any_request_leaves_the_old_or_the_new(store, machine, monkeypatch):
    changes = ("pipe_file", "cp_file", "rm_file", "put_file")
    real = {name: getattr(type(store), name) for name in changes}
    left = [0]

    def counted(name):
        def call(self, *args, **options):
            if left[0] <= 0:
                raise Killed
            left[0] -= 1
            return real[name](self, *args, **options)

        return call

    old, new = {"a": b"1", "b": b"1"}, {"a": b"2", "c": b"2"}
    seen = set()
    for name in changes:
        monkeypatch.setattr(type(store), name, counted(name))
    for count in range(2, 40):
        store.store.clear()
        remote.clear_caches()
        left[0] = 1000
        machine(f"writer{count}")
        with mirrored(URL) as folder:
            write(folder, a="1", b="1")
        left[0] = count
        died = False
        try:
            with mirrored(URL) as folder:
                write(folder, a="2", c="2")
                (folder / "b").unlink()
        except Killed:
            died = True
        left[0] = 1000
        machine(f"reader{count}")
        with mirrored(URL, writes=False) as folder:
            found = content(folder)
        assert found in (old, new)
        seen.add(found == new)
        machine(f"writer{count}")
        with mirrored(URL) as folder:
            assert {**content(folder), **new} == content(folder)
            (folder / "b").unlink(missing_ok=True)  # A lost removal is made again.
        with mirrored(URL, writes=False) as folder:
            assert content(folder) == new
        assert plain(store) == ["a", "c"]
        if not died:
            break
    assert seen == {True, False} and not died


def test_two_writers_are_refused(store, machine, monkeypatch):
    with pytest.raises(InputError, match="another process, which has gone on"):
        with mirrored(URL, "out") as first:
            write(first, a="1")
            machine("second")
            with pytest.raises(InputError, match="^out must be written.*on first"):
                with mirrored(URL, "out"):
                    pass
            monkeypatch.setattr(mirror, "SILENT_SECONDS", -1.0)
            with mirrored(URL, "out") as second:
                write(second, a="2")
    assert content(second) == {"a": b"2"} == {"a": store.cat("/bucket/corpus/a")}
    assert content(first) == {"a": b"1"}  # Nothing is lost.


def test_two_that_begin_at_once_are_told_apart(store, machine, monkeypatch):
    find = type(store).find

    def find_no_manifest(self, path, *arguments, **options):
        if path.endswith("/.align_keras"):
            return []
        return find(self, path, *arguments, **options)

    with mirrored(URL):
        machine("second")
        with monkeypatch.context() as patch:
            patch.setattr(type(store), "find", find_no_manifest)
            with pytest.raises(InputError, match="began at the same time"):
                with mirrored(URL):
                    pass


def test_what_was_not_uploaded_is_put_aside_if_another_went_on(store, machine, capsys):
    with mirrored(URL) as folder:
        write(folder, a="1")
    write(folder, a="mine", b="mine")  # As by a kill.
    machine("second")
    with mirrored(URL) as other:
        write(other, a="2")
    machine("first")
    with mirrored(URL) as folder:
        assert content(folder) == {"a": b"2"}
    [aside] = folder.parent.glob("corpus.left-*")
    assert content(aside) == {"a": b"mine", "b": b"mine"}
    assert str(aside) in capsys.readouterr().err


def test_an_error_of_the_command_keeps_what_is_done(store):
    with pytest.raises(ZeroDivisionError):
        with mirrored(URL) as folder:
            write(folder, a="1")
            raise ZeroDivisionError
    assert plain(store) == ["a"]


def test_a_command_that_writes_nothing_leaves_nothing(store):
    with mirrored(URL):
        pass
    assert store.find("/bucket") == []


def test_work_goes_up_while_it_goes_on(store, monkeypatch):
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_PUSHES", 0.02)
    monkeypatch.setattr(remote, "say", print)
    arrived = threading.Event()
    real = type(store).rm_file

    def removed(self, path):
        real(self, path)
        if plain(self) == ["a"]:
            arrived.set()

    monkeypatch.setattr(type(store), "rm_file", removed)
    with mirrored(URL) as folder:
        write(folder, a="1")
        assert arrived.wait(20)


def test_files_of_no_manifest_are_read_once(store, machine, capsys):
    store.pipe({"/bucket/data/x/a.jpg": b"1", "/bucket/data/b.jpg": b"2"})
    for told in ("downloading 2 files", ""):
        with mirrored("memory://bucket/data", writes=False) as folder:
            assert content(folder) == {"x/a.jpg": b"1", "b.jpg": b"2"}
        assert told in capsys.readouterr().err or not told
    store.pipe("/bucket/data/b.jpg", b"3")
    with mirrored("memory://bucket/data", writes=False) as folder:
        assert content(folder)["b.jpg"] == b"3"
    assert "downloading 1 files" in capsys.readouterr().err


def test_one_file(store, machine):
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
        ("memory://bucket/full", True, "must be a new folder or one.*holds a.txt"),
        ("memory://bucket/none", False, "be read.*nothing is there"),
        (
            "https://e.org/x",
            True,
            "must be a local path, s3:// or gs://.* http",
        ),
        (
            "hf://datasets/a/b",
            True,
            "must be a local path, s3:// or gs://.* hf",
        ),
        ("ftp://e.org/x", False, "must begin with s3://"),
        ("memory://bucket/bad", False, "has no name of a file: '../a'"),
    ],
)
def test_places_that_do_not_do(store, tmp_path, url, writes, message):
    store.pipe("/bucket/full/a.txt", b"1")
    manifest = {"files": {"../a": ["a", 1, ""]}}
    store.pipe("/bucket/bad/.align_keras/00000001.json", json.dumps(manifest).encode())
    with pytest.raises(InputError, match=message):
        with mirrored(url, "out", writes=writes):
            pass
    assert not list(tmp_path.rglob("a"))


def test_an_object_that_a_manifest_names_is_not_touched(store, machine, monkeypatch):
    """Also by a store that takes what it should refuse, as the emulator of GCS does."""
    put = type(store).put_file

    def obliging(self, source, target, mode="overwrite"):
        return put(self, source, target)

    monkeypatch.setattr(type(store), "put_file", obliging)
    with mirrored(URL) as folder:
        write(folder, a="1")
    with pytest.raises(Killed):
        with mirrored(URL) as folder:
            write(folder, a="2")
            monkeypatch.setattr(type(store), "pipe_file", killed)
    machine("second")
    with mirrored(URL, writes=False) as folder:
        assert content(folder) == {"a": b"1"}


def killed(self, *args, **options):
    raise Killed
