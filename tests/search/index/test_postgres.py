"""Compares an index in PostgreSQL with pgvector with an index in a folder."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

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


def comparable(hits):
    return [(hit.path, sorted(hit.duplicates), hit.relevance is None) for hit in hits]


def columns_as_text(hit):
    return {name: str(hit.columns[name]) for name in hit.columns if name != "stars"}


def test_a_database_returns_the_same_hits_as_a_folder(
    database, many_photos, tmp_path, colors, monkeypatch
):
    # With this threshold, no pair of images is so close to it that the rounding of
    # halfvec changes the result.
    monkeypatch.setattr("align_keras.search.query.searcher.NEAR_DUPLICATE_COSINE", 0.97)
    table = tmp_path / "table.csv"
    rows = [f"photos/{n:02}.png,color {n},{n},{'x' * (n % 3)}" for n in range(20)]
    table.write_text("\n".join(["image,caption,stars,mark", *rows]))
    sources, model = [many_photos, table], colors.GOLDEN
    folder = Index.build(tmp_path / "index", sources, model)
    server_index = Index.build(database, sources, model)
    assert len(server_index) == len(folder) and server_index.changes == folder.changes
    green = colors.image_bytes((10, 200, 10))
    for query in (
        Query("red", k=9),
        Query("red", k=9, duplicates=True),
        Query(image=green, plus="blue", k=70),
        Query("blue", where="stars >= 7 and mark = 'xx'", k=5),
        Query("blue", where="folder like '%Italy%' or year > 2000", k=4),
        Query("red", where="stars is null and not name like '%.png'"),
        Query("red", where="width > 1000"),
    ):
        hits, expected = server_index.query(query), folder.query(query)
        assert comparable(hits) == comparable(expected)
        for hit, expected_hit in zip(hits, expected, strict=True):
            # halfvec has a precision of 11 bits.
            assert hit.score == pytest.approx(expected_hit.score, abs=2e-3)
            assert hit.relevance == pytest.approx(expected_hit.relevance, abs=0.011)
            assert hit.captions == expected_hit.captions
            assert columns_as_text(hit) == columns_as_text(expected_hit)
    blue = server_index.query("blue", k=1)[0]
    assert server_index.query(Query(image=blue.id, k=1))[0].path == blue.path
    for where in ("name > 3", "stars = 'x'", "1=1; drop schema align_keras cascade"):
        with pytest.raises(InputError, match="where"):
            server_index.query("red", where=where)
    assert len(server_index) == len(folder)
    # Both kinds of indexes detect the same changes.
    (many_photos / "00.png").rename(many_photos / "moved.png")
    (many_photos / "red.png").unlink()
    for index in (folder, server_index):
        changes = index.add()
        assert (changes.renamed, changes.removed, changes.added) == (1, 1, 0)
    hits, expected = server_index.query("red", k=80), folder.query("red", k=80)
    assert comparable(hits) == comparable(expected)
    for hit, expected_hit in zip(hits, expected, strict=True):
        assert hit.relevance == pytest.approx(expected_hit.relevance, abs=0.011)
    assert (
        server_index.remove([many_photos / "Italy"])
        == 1
        == folder.remove([many_photos / "Italy"])
    )
    assert len(server_index) == len(folder)


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


def test_open_refuses_a_database_without_an_index_or_with_another_model(
    server, database, photos, colors, tmp_path
):
    with pytest.raises(InputError, match="must contain an index"):
        Index.open(database)
    Index.build(database, [photos], colors.GOLDEN)
    colors.write_color_towers(tmp_path / "other", 2.0)
    with pytest.raises(InputError, match="the model that computed its embeddings"):
        Index.open(database, tmp_path / "other")


def test_connection_errors_name_the_cause(server, database, monkeypatch):
    server.new_user("guarded", "right")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    address = database.replace("tester@", "guarded@")
    with pytest.raises(InputError, match="no password"):
        Index.open(address)
    with pytest.raises(InputError, match="must not contain a password") as caught:
        Index.open(f"{address}&password=wr0ng")
    assert "wr0ng" not in str(caught.value)
    monkeypatch.setenv("PGPASSWORD", "wr0ng")
    with pytest.raises(InputError, match="password"):
        Index.open(address)
    monkeypatch.setenv("PGPASSWORD", "right")
    with pytest.raises(InputError, match="must contain an index"):
        Index.open(address)
    missing = server.address("nowhere").replace("tester@", "guarded@")
    with pytest.raises(InputError, match="nowhere"):
        Index.open(missing)
    with pytest.raises(InputError, match="nobody"):
        Index.open(database.replace("tester@", "nobody@"))
    with pytest.raises(InputError, match="127.0.0.1"):
        Index.open("postgresql://me@127.0.0.1:9/images")


def test_the_page_works_again_after_an_outage(server, many_photos, colors):
    from align_keras.search.serve.local_server import make_server, open_port
    from align_keras.search.serve.server import make_app

    database = server.new_database("served")
    index = Index.build(database, [many_photos], colors.GOLDEN)
    page = make_server(make_app(database))
    with open_port(0) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def ids(**parameters):
            query = urllib.parse.urlencode({**parameters, "k": 9})
            with urllib.request.urlopen(f"{address}/api/search?{query}") as response:
                return [hit["id"] for hit in json.load(response)["hits"]]

        thread = threading.Thread(target=page.run, args=([listening],))
        thread.start()
        try:
            red = ids(text="red")
            expected = index.query("red", k=9)
            assert red == [hit.id for hit in expected]
            where = "name like '%1.png'"
            assert ids(where=where) == [hit.id for hit in index.latest(where, 9)]
            with urllib.request.urlopen(f"{address}/image/{red[0]}") as response:
                assert response.read() == pathlib.Path(expected[0].path).read_bytes()
            server.stop()
            with pytest.raises(urllib.error.HTTPError) as failed:
                ids(text="red")
            assert "error" in json.load(failed.value)
            server.start()
            assert ids(text="red") == red
        finally:
            page.should_exit = True
            thread.join()


def test_tags_in_a_database_equal_those_in_a_folder(
    database, many_photos, tmp_path, colors, capsys
):
    labels = tmp_path / "labels.txt"
    labels.write_text("red\nblue\n")
    known = tmp_path / "known.csv"
    known.write_text("image,labels\nphotos/red.png,red\nphotos/green.png,\n")
    tables = []
    for number, index in enumerate((str(tmp_path / "index"), database)):
        Index.build(index, [many_photos], colors.GOLDEN)
        thresholds = str(tmp_path / f"thresholds{number}.json")
        table = tmp_path / f"tags{number}.jsonl"
        command = [
            "tag",
            "--index",
            index,
            "--labels",
            str(labels),
            "--out",
            str(table),
        ]
        calibration = ["--calibrate", str(known), "--thresholds", thresholds]
        assert main([*command, *calibration]) == 0, capsys.readouterr().err
        tables.append([json.loads(line) for line in table.read_text().splitlines()])
    folder_rows, database_rows = tables
    assert {row["image"]: row["tags"] for row in database_rows} == {
        row["image"]: row["tags"] for row in folder_rows
    }
    has_red = Query(where="tags like '%red%'", k=100)
    # Tables replace bytes that are not UTF-8.
    paths = {
        os.fsencode(hit.path).decode("utf-8", "replace")
        for hit in Index.open(database).query(has_red)
    }
    assert paths == {row["image"] for row in database_rows if "red" in row["tags"]}
