"""The index in a real PostgreSQL with pgvector, beside that in a folder."""

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
def many(photos, colors):
    """Sixty colors, of which three are near-duplicates of red; a table names some."""
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


def told(hits):
    return [(hit.path, sorted(hit.duplicates), hit.relevance) for hit in hits]


def test_it_answers_as_an_index_in_a_folder_does(
    database, many, tmp_path, colors, monkeypatch
):
    # No two of these images are so near to it that halfvec's rounding decides.
    monkeypatch.setattr("align_keras.search.image_index.SAME_IMAGE", 0.97)
    table = tmp_path / "table.csv"
    rows = [f"photos/{n:02}.png,color {n},{n},{'x' * (n % 3)}" for n in range(20)]
    table.write_text("\n".join(["image,caption,stars,mark", *rows]))
    sources, model = [many, table], colors.GOLDEN
    folder = Index.build(tmp_path / "index", sources, model)
    there = Index.build(database, sources, model)
    assert len(there) == len(folder) and there.changes == folder.changes
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
        found, expected = there.query(query), folder.query(query)
        assert told(found) == told(expected)
        for hit, other in zip(found, expected, strict=True):
            # halfvec has 11 bits.
            assert hit.score == pytest.approx(other.score, abs=2e-3)
            assert hit.captions == other.captions
            ours = {k: str(v) for k, v in hit.columns.items() if k != "stars"}
            theirs = {k: str(v) for k, v in other.columns.items() if k != "stars"}
            assert ours == theirs
    blue = there.query("blue", k=1)[0]
    assert there.query(Query(image=blue.id, k=1))[0].path == blue.path
    for wrong in ("name > 3", "stars = 'x'", "1=1; drop schema align_keras cascade"):
        with pytest.raises(InputError, match="where"):
            there.query("red", where=wrong)
    assert len(there) == len(folder)
    # A second time, in another process's place.
    (many / "00.png").rename(many / "moved.png")
    (many / "red.png").unlink()
    for index in (folder, there):
        changes = index.add()
        assert (changes.renamed, changes.gone, changes.added) == (1, 1, 0)
    assert told(there.query("red", k=80)) == told(folder.query("red", k=80))
    assert there.remove([many / "Italy"]) == 1 == folder.remove([many / "Italy"])
    assert len(there) == len(folder)


def test_lists_find_exactly_k_that_fulfill_a_condition(
    database, many, colors, monkeypatch
):
    monkeypatch.setattr("align_keras.search.postgres.EXACT_UP_TO", 10)
    index = Index.build(database, [many], colors.GOLDEN)
    import psycopg

    with psycopg.connect(database) as connection:
        sql = "SELECT to_regclass('align_keras.vectors_lists')"
        assert connection.execute(sql).fetchone() != (None,)
    exact = Index.open(database).query("red", k=70, duplicates=True)
    assert len(exact) == len(index)
    found = index.query("blue", where="name like '%1.png'", k=6, duplicates=True)
    assert len(found) == 6


INDEXER = """
import sys
import threading
from align_keras.search import Index
changes = Index.build(sys.argv[1], [sys.argv[2]], sys.argv[3]).changes
print(changes.added, changes.unreadable["indexed by another process"])
"""


def indexer(database, folder, colors):
    command = [sys.executable, "-c", INDEXER, database, folder, colors.GOLDEN]
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)


def test_two_indexers_share_the_work_and_a_kill_loses_nothing(
    database, many, tmp_path, colors
):
    random = np.random.default_rng(1)
    for number in range(600):
        color = tuple(random.integers(0, 256, 3).tolist())
        content = colors.image_bytes(color, (300, 200 + number))
        (many / f"more{number}.png").write_bytes(content)
    expected = Index.build(tmp_path / "index", [many], colors.GOLDEN)
    killed = indexer(database, many, colors)
    time.sleep(2.5)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    pair = [indexer(database, many, colors) for _ in range(2)]
    counts = [list(map(int, one.communicate()[0].split())) for one in pair]
    assert [one.returncode for one in pair] == [0, 0]
    index = Index.build(database, [many], colors.GOLDEN)
    assert len(index) == len(expected)
    # Nothing twice, but for what the killed one had written before.
    assert sum(added for added, _ in counts) <= len(expected)
    query = Query("red", k=len(expected), duplicates=True)
    assert {hit.path for hit in index.query(query)} == {
        hit.path for hit in expected.query(query)
    }


def test_a_database_that_goes_away_and_comes_back(
    server, database, photos, colors, capsys
):
    place = ["--to", database, "--model", str(colors.GOLDEN)]
    assert main(["index", str(photos), *place]) == 0
    index = Index.open(database)
    before = index.query("red")
    capsys.readouterr()
    assert main(["search", "red", "--index", database, "--paths", "-k", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(photos / "red.png")]
    server.stop()
    try:
        with pytest.raises(InputError, match="can't be reached"):
            index.query("red")
        assert main(["index", *place]) == 1
        assert re.fullmatch(
            "align-keras index: error: The database .* can't be reached .*",
            capsys.readouterr().err.strip(),
        )
    finally:
        server.start()
    assert index.query("red") == before
    assert index.add().unchanged == 3


def test_what_is_no_index_or_another_models(server, database, photos, colors, tmp_path):
    with pytest.raises(InputError, match="must hold an index, and has none"):
        Index.open(database)
    with pytest.raises(InputError, match="have the database 'nowhere', which it lacks"):
        Index.open(server.address("nowhere"))
    Index.build(database, [photos], colors.GOLDEN)
    colors.write_color_towers(tmp_path / "other", 2.0)
    with pytest.raises(InputError, match="made with"):
        Index.open(database, tmp_path / "other")
    with pytest.raises(InputError) as caught:
        Index.open(database.replace("tester@", "tester:secret@") + "&port=1")
    assert "secret" not in str(caught.value)


def test_a_password_that_is_missing_or_wrong(server, database, monkeypatch):
    server.new_user("guarded", "right")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    address = database.replace("tester@", "guarded@")
    with pytest.raises(InputError, match="asks for a password, and none was given"):
        Index.open(address)
    wrong = address.replace("guarded@", "guarded:wr0ng@")
    with pytest.raises(InputError, match="refuses this user or password") as caught:
        Index.open(wrong)
    assert "wr0ng" not in str(caught.value)
    right = address.replace("guarded@", "guarded:right@")
    with pytest.raises(InputError, match="must hold an index, and has none"):
        Index.open(right)
    nowhere = server.address("nowhere").replace("tester@", "guarded:right@")
    with pytest.raises(InputError, match="have the database 'nowhere'"):
        Index.open(nowhere)
    with pytest.raises(InputError, match="refuses the connection"):
        Index.open(database.replace("tester@", "nobody@"))
    with pytest.raises(InputError, match="can't be reached"):
        Index.open("postgresql://me@127.0.0.1:9/images")


def test_the_page_serves_it_and_goes_on_after_an_outage(server, many, colors):
    from align_keras.search.local_server import make_server, open_port
    from align_keras.search.server import make_app

    database = server.new_database("served")
    index = Index.build(database, [many], colors.GOLDEN)
    page = make_server(make_app(database))
    with open_port(0) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def ids(**asked):
            given = urllib.parse.urlencode({**asked, "k": 9})
            with urllib.request.urlopen(f"{address}/api/search?{given}") as answer:
                return [hit["id"] for hit in json.load(answer)["hits"]]

        thread = threading.Thread(target=page.run, args=([listening],))
        thread.start()
        try:
            red = ids(text="red")
            expected = index.query("red", k=9)
            assert red == [hit.id for hit in expected]
            where = "name like '%1.png'"
            assert ids(where=where) == [hit.id for hit in index.latest(where, 9)]
            with urllib.request.urlopen(f"{address}/image/{red[0]}") as answer:
                assert answer.read() == pathlib.Path(expected[0].path).read_bytes()
            server.stop()
            with pytest.raises(urllib.error.HTTPError) as failed:
                ids(text="red")
            assert "error" in json.load(failed.value)
            server.start()
            assert ids(text="red") == red
        finally:
            page.should_exit = True
            thread.join()
