"""Index in PostgreSQL: lists of a large index, several indexers, and its server."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from align_keras.cli.main import main
from align_keras.search import Index, Query
from align_keras.utils.errors import InputError

pytestmark = pytest.mark.ci


@pytest.fixture
def many_photos(photos, colors):
    """Adds sixty colors, three near-duplicates of red, and a name that is not UTF-8."""
    random = np.random.default_rng(0)
    for number in range(60):
        color = tuple(random.integers(0, 256, 3).tolist())
        path = photos / f"{number:02}.png"
        path.write_bytes(colors.image_bytes(color))
    for number in range(3):
        content = colors.image_bytes("red", (24, 30 + number))
        (photos / f"red{number}.png").write_bytes(content)
    with open(os.path.join(os.fsencode(photos), b"\xff caf\xe9.png"), "wb") as file:
        file.write(colors.image_bytes((255, 255, 0)))
    return photos


def test_a_search_of_lists_returns_k_images_that_fulfill_a_condition(
    database, many_photos, colors, monkeypatch
):
    monkeypatch.setattr("align_keras.search.index.postgres_store.EXACT_UP_TO", 10)
    index = Index.build(database, [many_photos], colors.GOLDEN)
    import psycopg

    with psycopg.connect(database) as connection:
        sql = "SELECT to_regclass('align_keras.vectors_lists')"
        assert connection.execute(sql).fetchone() != (None,)
    exact = Index.open(database).query("red", k=70, duplicates=True)
    assert len(exact) == len(index)
    hits = index.query("blue", where="name like '%1.png'", k=6, duplicates=True)
    assert len(hits) == 6


INDEXER = """
import sys
import threading
from align_keras.search import Index
changes = Index.build(sys.argv[1], [sys.argv[2]], sys.argv[3]).changes
print(changes.added, changes.unreadable["indexed by another process"])
"""


def start_indexer(database, folder, colors):
    command = [sys.executable, "-c", INDEXER, database, folder, colors.GOLDEN]
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)


def test_two_indexers_divide_the_work_and_survive_a_kill(
    database, many_photos, tmp_path, colors
):
    import psycopg

    random = np.random.default_rng(1)
    for number in range(200):
        color = tuple(random.integers(0, 256, 3).tolist())
        content = colors.image_bytes(color, (300, 200 + number))
        (many_photos / f"more{number}.png").write_bytes(content)
    expected = Index.build(tmp_path / "index", [many_photos], colors.GOLDEN)
    killed = start_indexer(database, many_photos, colors)
    with psycopg.connect(database, autocommit=True) as connection:
        claims = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        while not connection.execute(claims).fetchone()[0]:
            time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    pair = [start_indexer(database, many_photos, colors) for _ in range(2)]
    counts = [list(map(int, process.communicate()[0].split())) for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    index = Index.build(database, [many_photos], colors.GOLDEN)
    assert len(index) == len(expected)
    # No image is embedded twice. The killed process had written some before.
    assert sum(added for added, _ in counts) <= len(expected)
    query = Query("red", k=len(expected), duplicates=True)
    assert {hit.path for hit in index.query(query)} == {
        hit.path for hit in expected.query(query)
    }


def test_an_index_works_again_after_the_server_was_stopped(
    server, database, photos, colors, capsys
):
    options = ["--index", database, "--model", str(colors.GOLDEN)]
    assert main(["index", str(photos), *options]) == 0
    index = Index.open(database)
    before = index.query("red")
    capsys.readouterr()
    assert main(["search", "red", "--index", database, "--paths", "-k", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(photos / "red.png")]
    server.stop()
    try:
        with pytest.raises(InputError, match="database"):
            index.query("red")
        assert main(["index", *options]) == 1
        assert re.fullmatch(
            "align-keras index: error: .* database .*", capsys.readouterr().err.strip()
        )
    finally:
        server.start()
    assert index.query("red") == before
    assert index.add().unchanged == 3


def test_an_index_of_another_version_is_refused(database, photos, colors):
    import psycopg

    Index.build(database, [photos], colors.GOLDEN)
    with psycopg.connect(database) as connection:
        sql = "UPDATE align_keras.meta SET value = '{}' WHERE key = 'header'"
        connection.execute(sql)
    with pytest.raises(InputError, match="version"):
        Index.open(database)


def test_connection_errors_name_the_cause(server, database, monkeypatch):
    server.new_user("guarded", "right")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    address = database.replace("tester@", "guarded@")
    with pytest.raises(InputError, match="no password"):
        Index.open(address)
    with pytest.raises(InputError, match="PGPASSWORD") as caught:
        Index.open(f"{address}&password=wr0ng")
    assert "wr0ng" not in str(caught.value)
    monkeypatch.setenv("PGPASSWORD", "wr0ng")
    with pytest.raises(InputError, match="password"):
        Index.open(address)
    monkeypatch.setenv("PGPASSWORD", "right")
    with pytest.raises(InputError, match="align-keras index FOLDER"):
        Index.open(address)
    missing = server.address("nowhere").replace("tester@", "guarded@")
    with pytest.raises(InputError, match="nowhere"):
        Index.open(missing)
    with pytest.raises(InputError, match="nobody"):
        Index.open(database.replace("tester@", "nobody@"))
    with pytest.raises(InputError, match="127.0.0.1"):
        Index.open("postgresql://me@127.0.0.1:9/images")
