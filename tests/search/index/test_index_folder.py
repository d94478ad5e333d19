"""Folders of an index that are read-only, incomplete, damaged or malicious."""

import contextlib
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from align_keras.search import Index, Query
from align_keras.search.index import vectors_file
from align_keras.search.index.folder_store import FolderStore
from align_keras.utils.errors import InputError

ROOT = pathlib.Path(__file__).parents[3]
DAMAGED = "is damaged"


@pytest.fixture
def folder(tmp_path, photos, colors):
    """Returns the folder of an index of three images that is not open."""
    Index.build(tmp_path / "index", [photos], colors.GOLDEN).store.close()
    return tmp_path / "index"


@contextlib.contextmanager
def database(folder):
    with contextlib.closing(sqlite3.connect(folder / "images.sqlite")) as connection:
        yield connection
        connection.commit()


def set_meta(folder, key, value):
    with database(folder) as connection:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, value])


@contextlib.contextmanager
def read_only_copy(folder, mount_point):
    """Copies a folder to a disk that is then mounted read-only."""
    mount_point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mount_point)]
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("may not mount a disk here")
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a disk here")
    try:
        shutil.copytree(folder, mount_point / "index")
        subprocess.run(["mount", "-o", "remount,ro", str(mount_point)], check=True)
        yield mount_point / "index"
    finally:
        subprocess.run(["umount", "-l", str(mount_point)], check=True)


def kill_before_checkpoint(folder, photos, colors, monkeypatch):
    """Adds an image that is only in the write-ahead log, as after a kill."""
    (photos / "late.png").write_bytes(colors.image_bytes((9, 9, 200)))
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "_end_run", lambda store: None)
        index = Index.build(folder, [photos], colors.GOLDEN)
    assert (folder / "images.sqlite-wal").stat().st_size
    return index


def test_a_finished_run_leaves_the_database_complete(tmp_path, photos, colors):
    index = Index.build(tmp_path / "index", [photos], colors.GOLDEN)
    copy = tmp_path / "copy"
    # This process still has the index open, so the log exists and is not copied.
    shutil.copytree(tmp_path / "index", copy, ignore=shutil.ignore_patterns("*-wal"))
    assert len(Index.open(copy)) == len(index) == 3
    index.remove([photos / "red.png"])
    shutil.copy(tmp_path / "index" / "images.sqlite", copy)
    assert len(Index.open(copy)) == 2


def test_a_copy_without_its_log_is_refused_until_an_update(
    tmp_path, folder, photos, colors, monkeypatch
):
    with contextlib.closing(
        kill_before_checkpoint(folder, photos, colors, monkeypatch).store
    ):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    message = "4 embeddings .* 3 rows"
    with pytest.raises(InputError, match=message):
        Index.open(copy)
    assert len(Index.build(copy, [photos], colors.GOLDEN)) == 4
    assert len(Index.open(copy)) == 4


@pytest.mark.ci
def test_an_index_on_a_read_only_disk_is_complete_or_refused(
    tmp_path, folder, photos, colors, monkeypatch
):
    with read_only_copy(folder, tmp_path / "finished") as copy:
        assert len(Index.open(copy, colors.GOLDEN).latest()) == 3
    with contextlib.closing(
        kill_before_checkpoint(folder, photos, colors, monkeypatch).store
    ):
        with read_only_copy(folder, tmp_path / "log") as copy:
            assert len(Index.open(copy, colors.GOLDEN).latest()) == 4
        partial = tmp_path / "partial"
        shutil.copytree(folder, partial, ignore=shutil.ignore_patterns("*-shm"))
    with read_only_copy(partial, tmp_path / "unreadable") as copy:
        with pytest.raises(InputError, match="images.sqlite-wal"):
            Index.open(copy)


AS_NOBODY = """
import mmap, os, sys
from align_keras.search.index.folder_store import FolderStore
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
store = FolderStore(sys.argv[1])
print(len(store), flush=True)
sys.stdin.readline()
print(len(store), store.latest("", [], 1)[0]["name"], flush=True)
"""


@pytest.mark.ci
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users of Unix")
def test_a_reader_without_write_permission_sees_new_images(folder, photos, colors):
    if os.geteuid():
        pytest.skip("may not mount a disk here")
    for name in ("images.sqlite-wal", "images.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    user = os.getuid()
    parents = [parent for parent in folder.parents if parent.stat().st_uid == user]
    modes = {parent: parent.stat().st_mode for parent in parents}
    try:
        for parent in parents:
            parent.chmod(parent.stat().st_mode | 0o055)
        with subprocess.Popen(
            [sys.executable, "-c", AS_NOBODY, folder],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "3\n"
            (photos / "late.png").write_bytes(colors.image_bytes((9, 9, 200)))
            Index.build(folder, [photos], colors.GOLDEN)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "4 late.png\n"
            process.stdin.close()
            assert process.wait(20) == 0
    finally:
        for parent, mode in modes.items():
            parent.chmod(mode)


@pytest.mark.parametrize(
    "name",
    [
        "../out/x",
        "vectors.0.f32/../../out/x",
        "vectors.0.f32\n",
        "index.json",
        None,
    ],
)
def test_names_of_vectors_files_outside_the_folder_are_refused(
    tmp_path, folder, photos, colors, name
):
    outside = tmp_path / "out" / "x"
    outside.parent.mkdir()
    outside.write_bytes(bytes(16) * 99)
    set_meta(folder, "vectors", name)
    header = (folder / "index.json").read_bytes()
    for rows in (0, 3):
        set_meta(folder, "rows", rows)
        with pytest.raises(InputError, match="is damaged"):
            Index.build(folder, [photos], colors.GOLDEN)
        with pytest.raises(InputError, match="is damaged"):
            Index.open(folder)
    assert outside.read_bytes() == bytes(16) * 99
    assert (folder / "index.json").read_bytes() == header


@pytest.mark.parametrize("name", ["vectors.0.f32", "index.lock", "images.sqlite"])
def test_links_of_an_index_are_not_followed(tmp_path, folder, photos, colors, name):
    outside = tmp_path / "outside"
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_bytes(b"precious")
    before = outside.read_bytes()
    (folder / name).symlink_to(outside)
    (photos / "late.png").write_bytes(colors.image_bytes((9, 9, 200)))
    with pytest.raises(InputError, match=name):
        Index.build(folder, [photos], colors.GOLDEN)
    assert outside.read_bytes() == before


def test_links_in_the_results_of_a_cluster_are_refused(
    tmp_path, folder, photos, colors
):
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (folder / ".tasks" / "done").mkdir(parents=True)
    (folder / ".tasks" / "done" / "a.json").symlink_to(outside)
    (photos / "late.png").write_bytes(colors.image_bytes((9, 9, 200)))
    with pytest.raises(InputError, match="a.json"):
        Index.build(folder, [photos], colors.GOLDEN, engine="dask:h:1")
    assert outside.read_bytes() == b"precious"


def test_vectors_are_not_rewritten_through_a_link(
    tmp_path, folder, photos, colors, monkeypatch
):
    monkeypatch.setattr(vectors_file, "VECTOR_ROWS_PER_BLOCK", 1)
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (folder / "vectors.1.f32").symlink_to(outside)
    (folder / "notes.pq").write_bytes(b"another file")
    (photos / "green.png").unlink()
    with pytest.raises(InputError, match="vectors.1.f32"):
        Index.build(folder, [photos], colors.GOLDEN)
    (folder / "vectors.1.f32").unlink()
    index = Index.build(folder, [photos], colors.GOLDEN)
    assert index.store.vectors_file == "vectors.1.f32" and len(index) == 2
    assert outside.read_bytes() == b"precious"
    assert (folder / "notes.pq").read_bytes() == b"another file"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW added AS SELECT 1",
        "ALTER TABLE images RENAME TO other; CREATE VIEW images AS WITH RECURSIVE "
        "n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id FROM n",
        "CREATE TRIGGER added AFTER INSERT ON images BEGIN DELETE FROM roots; END",
        "ALTER TABLE images ADD COLUMN added AS (printf('%.*c', 1000000, 'x'))",
        "UPDATE meta SET value = '{}' WHERE key = 'header'",
        "DELETE FROM meta",
    ],
)
def test_a_manipulated_database_is_refused(folder, sql):
    with database(folder) as connection:
        connection.executescript(sql)
    with pytest.raises(InputError, match=DAMAGED):
        Index.open(folder)


def test_stored_names_of_columns_are_not_sql(folder, colors):
    name = """a"') IS NULL OR ('1"""
    set_meta(folder, "columns", json.dumps({"1": {name: "text"}}))
    index = Index.open(folder, colors.GOLDEN)
    where = "\"{}\" = 'b'".format(name.replace('"', '""'))
    assert index.query("red", where=where) == []


@pytest.mark.parametrize(
    "key, value",
    [
        ("dimension", 2),
        ("dimension", "4"),
        ("model", {"name": "align_small_en", "fingerprint": "f"}),
    ],
)
def test_an_invalid_header_is_refused(folder, key, value):
    header = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**header, key: value}))
    with pytest.raises(InputError, match=DAMAGED):
        Index.open(folder)


def change_row(folder, row, change):
    """Applies a function to a row of the vectors file."""
    path = folder / "vectors.0.f32"
    vectors = np.fromfile(path, "<f4").reshape(-1, 4)
    change(vectors[row])
    vectors.tofile(path)


def flip_bit(row, number, bit):
    row.view("<u4")[number] ^= np.uint32(1 << bit)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0, 0.0])
def test_invalid_values_of_an_embedding_are_refused(folder, colors, value):
    def change(row):
        row[:] = value

    change_row(folder, 1, change)
    index = Index.open(folder, colors.GOLDEN)
    message = "row 1, .*--rebuild"
    for query in (Query("red", k=1), Query("red", k=100_000, duplicates=True)):
        with pytest.raises(InputError, match=message):
            index.query(query)
    with pytest.raises(InputError, match=message):
        index.check()
    with pytest.raises(InputError, match=message):
        Index.build(folder)


def test_check_detects_flipped_bits(folder, colors):
    path = folder / "vectors.0.f32"
    content = path.read_bytes()
    index = Index.open(folder, colors.GOLDEN)
    assert index.check() == 3
    for bit in range(0, 8 * len(content), 13):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            index.check()
    path.write_bytes(content)
    assert index.check() == 3


def test_the_checksums_of_hits_are_compared(folder, colors):
    """A flipped sign or last bit does not change the norm."""
    for bit in (31, 0):
        content = (folder / "vectors.0.f32").read_bytes()
        change_row(folder, 2, lambda row, bit=bit: flip_bit(row, 3, bit))
        index = Index.open(folder, colors.GOLDEN)
        with pytest.raises(InputError, match="row 2"):
            index.query("blue")
        with pytest.raises(InputError, match="checksum differs"):
            index.embedding(3)
        (folder / "vectors.0.f32").write_bytes(content)
    assert len(Index.open(folder, colors.GOLDEN).latest()) == 3


def test_rewritten_vectors_have_checksums(folder, photos, colors, monkeypatch):
    monkeypatch.setattr(vectors_file, "VECTOR_ROWS_PER_BLOCK", 1)
    (photos / "red.png").unlink()
    index = Index.build(folder)
    assert index.store.vectors_file == "vectors.1.f32" and index.check() == 2
    (photos / "late.png").write_bytes(colors.image_bytes((9, 9, 200)))
    assert len(Index.build(folder)) == index.check() == 3


def test_the_check_option_reports_damage(folder, capsys):
    from align_keras.cli.main import main

    assert main(["index", "--check", "--index", str(folder)]) == 0
    assert "3 embeddings of" in capsys.readouterr().out
    change_row(folder, 0, lambda row: flip_bit(row, 3, 0))
    assert main(["index", "--check", "--index", str(folder)]) == 1
    assert "checksum differs" in capsys.readouterr().err
    assert main(["index", "--rebuild", "--index", str(folder)]) == 0
    assert main(["index", "--check", "--index", str(folder)]) == 0


@pytest.fixture
def no_timeout(monkeypatch):
    """Makes SQLite fail immediately if another connection holds a lock."""
    connect = sqlite3.connect

    def connect_without_waiting(*arguments, **options):
        return connect(*arguments, **{**options, "timeout": 0})

    monkeypatch.setattr(sqlite3, "connect", connect_without_waiting)


def test_a_locked_database_is_not_reported_as_damaged(folder, no_timeout):
    with database(folder) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    with contextlib.closing(FolderStore(folder)) as store, database(folder) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="locked"):
            store.tables.named_columns()


def test_a_reader_without_write_permission_detects_a_rebuild(
    folder, photos, colors, monkeypatch
):
    connect = sqlite3.connect
    addresses = []

    def record_address(address, *arguments, **options):
        addresses.append(str(address))
        return connect(address, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        patch.setattr(sqlite3, "connect", record_address)
        index = Index.open(folder)
    # Without write permission, the database is opened as immutable.
    assert addresses and all("immutable=1" in address for address in addresses)
    query = np.array([1, 0, 0, 0], np.float32)
    index.query(query)
    (photos / "late.png").write_bytes(colors.image_bytes((9, 9, 200)))
    Index.rebuild(folder, [photos], colors.GOLDEN).store.close()
    for _ in range(2):
        with pytest.raises(InputError, match="built again"):
            index.query(query)


@pytest.mark.parametrize(
    "condition",
    [" OR ".join(["width = 1"] * 1100), " AND ".join(["width IN (?)"] * 40_000)],
)
def test_a_condition_beyond_the_limits_of_sqlite_is_not_reported_as_damage(
    folder, condition
):
    with contextlib.closing(FolderStore(folder)) as store:
        with pytest.raises(InputError, match="`where`"):
            store.rows(condition, [1] * condition.count("?"))
