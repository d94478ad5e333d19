"""Images and tables at addresses are indexed, searched and embedded."""

import collections
import errno
import os
import shutil

import fsspec
import numpy as np
import pytest

from align_keras import load_model
from align_keras.cli.main import main
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import read_pairs
from align_keras.search.bulk_embeddings import embed
from align_keras.search.image_index import Index
from align_keras.search.readers.image_files import read_file
from align_keras.utils import remote, remote_requests
from align_keras.utils.errors import InputError
from align_keras.utils.files import local_copy
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes
from tests.helpers.web_server import WebServer

pytestmark = pytest.mark.ci
TABLE = b"image,caption,year\nphotos/red.png,a red one,1999\n../s/gone.png,none,1\n"


@pytest.fixture
def store():
    """Yields the file system of a bucket with a folder of images and a table."""
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    fs.store.clear()
    for color in COLORS:
        fs.pipe_file(f"/s/photos/{color}.png", image_bytes(color))
    fs.pipe_file("/s/photos/sub/broken.jpg", b"no image")
    fs.pipe_file("/s/photos/notes.txt", b"no image either")
    fs.pipe_file("/s/table.csv", TABLE)
    yield fs
    fs.store.clear()


def counts(changes):
    names = ("added", "changed", "renamed", "removed", "unchanged")
    return tuple(getattr(changes, name) for name in names)


def test_a_folder_is_indexed_and_updated(store, tmp_path, monkeypatch):
    def build(*sources):
        return Index.build(tmp_path / "index", sources, GOLDEN)

    index = build("memory://s/photos/")
    assert counts(index.changes) == (3, 0, 0, 0, 0)
    assert dict(index.changes.unreadable) == {"unreadable": 1}
    [hit] = index.query("blue", k=1)
    assert hit.path == "memory://s/photos/blue.png"
    assert (hit.columns["folder"], hit.columns["name"]) == ("photos", "blue.png")
    assert not {"date", "year"} & hit.columns.keys()
    content, _ = read_file(os.fsencode(index.store.image(hit.id)["file"]))
    assert content == image_bytes("blue")
    read = collections.Counter()
    opened = remote.UrlReader.__init__
    monkeypatch.setattr(
        remote.UrlReader,
        "__init__",
        lambda self, url: read.update([url]) or opened(self, url),
    )
    assert counts(build().changes) == (0, 0, 0, 0, 3) and not read
    store.pipe_file("/s/photos/red.png", image_bytes((200, 0, 90)))
    store.mv("/s/photos/green.png", "/s/photos/sub/meadow.png")
    store.rm("/s/photos/blue.png")
    assert counts(build().changes) == (0, 1, 1, 1, 0)
    assert sorted(read) == [
        f"memory://s/photos/{name}" for name in ("red.png", "sub/meadow.png")
    ]
    store.rm("/s/photos", recursive=True)
    index = build()
    assert len(index) == 2 and index.changes.unavailable == ["memory://s/photos"]
    assert index.remove(["memory://s/photos"]) == 2


def test_a_table_is_indexed_with_its_columns(store, tmp_path):
    index = Index.build(tmp_path / "index", ["memory://s/table.csv"], GOLDEN)
    assert counts(index.changes) == (1, 0, 0, 0, 0)
    problem = "of the table: no such file or bucket"
    assert index.changes.examples == {problem: "memory://s/s/gone.png"}
    [hit] = index.query("red", where="year_ = 1999")
    assert hit.path == "memory://s/photos/red.png" and hit.captions == ["a red one"]
    again = Index.build(tmp_path / "index", (), GOLDEN)
    assert counts(again.changes) == (0, 0, 0, 0, 1)


def test_errors_of_a_web_server_remove_no_images(tmp_path, monkeypatch):
    files = {f"{color}.png": image_bytes(color) for color in COLORS}
    rows = "".join(f"{color}.png,{color}\n" for color in COLORS)
    files["t.csv"] = f"image,caption\n{rows}".encode()
    for name, value in {"TRIES": 2, "FIRST_PAUSE": 0.01}.items():
        monkeypatch.setattr(remote_requests, name, value)
    with WebServer(files) as server:
        table = f"{server.url}/t.csv"
        index = Index.build(tmp_path / "index", [table], GOLDEN)
        assert counts(index.changes) == (3, 0, 0, 0, 0)
        files["red.png"] = image_bytes((200, 0, 90))
        # The first two requests fail. The content of the table is cached.
        server.faults[:] = ["500", "500"]
        changes = index.add()
        assert dict(changes.unreadable) == {"can't be reached": 1}
        assert counts(changes) == (0, 0, 0, 0, 2) and len(index) == 3
        assert counts(index.add()) == (0, 1, 0, 0, 2)
        server.down |= {f"{color}.png" for color in COLORS}
        with pytest.raises(OSError, match="can't be reached") as caught:
            index.add()
    assert caught.value.errno == errno.EHOSTUNREACH and len(index) == 3


def test_bad_addresses_in_a_table_are_counted_and_skipped(tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    for name, value in {"TRIES": 2, "FIRST_PAUSE": 0.01}.items():
        monkeypatch.setattr(remote_requests, name, value)
    remote.clear_caches()
    names = [f"{number}.png" for number in range(12)]
    files = {name: image_bytes((20 * n, 0, 90)) for n, name in enumerate(names)}
    with WebServer(files) as server, WebServer({"1.png": image_bytes("red")}) as other:
        server.redirects["0.png"] = "file:///etc/hostname"
        server.redirects["1.png"] = f"{other.url}/1.png"
        server.redirects["2.png"] = "2.png"
        server.short.add("3.png")
        server.down.add("4.png")
        rows = "".join(f"{name},a color\n" for name in names)
        files["t.csv"] = f"image,caption\n{rows}".encode()
        table = f"{server.url}/t.csv"
        index = Index.build(tmp_path / "index", [table], GOLDEN)
        assert not other.requests
        assert len(index) == counts(index.changes)[0] == 7
        reasons = dict(index.changes.unreadable)
        local = "redirects to http://127.0.0.1, an address of a local network"
        assert reasons == {
            "of the table: redirects to file://, but only http and https are "
            "supported": 1,
            f"of the table: {local}. Pass this address directly": 1,
            "of the table: redirects more than 10 times": 1,
            "can't be read to its end": 1,
            "can't be reached": 1,
        }
        assert index.changes.examples["can't be reached"] == f"{server.url}/4.png"
        # Unreachable and truncated images stay in the index.
        server.short = {"3.png", "11.png"}
        files["11.png"] += b"changed"
        server.faults[:] = []
        again = index.add()
        assert len(index) == 7 and again.removed == 0
        assert again.unreadable["can't be read to its end"] == 2
        embed(table, tmp_path / "out", model=load_model(GOLDEN))
    problems = pq.read_table(tmp_path / "out")["problem"].to_pylist()
    assert [problem is None for problem in problems] == [
        n >= 5 and n != 11 for n in range(12)
    ]


def test_a_folder_a_table_and_a_text_file_are_embedded(store, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    model = load_model(GOLDEN)

    def rows(source, **options):
        to = tmp_path / "out"
        shutil.rmtree(to, ignore_errors=True)
        embed(source, to, model=model, **options)
        return pq.read_table(to).to_pylist()

    photos = rows("memory://s/photos")
    assert [row["id"] for row in photos] == [
        "blue.png",
        "green.png",
        "red.png",
        "sub/broken.jpg",
    ]
    [red] = model.encode_images([image_bytes("red")])
    np.testing.assert_array_equal(np.float32(photos[2]["embedding"]), red)
    first, second = rows("memory://s/table.csv")
    assert first["embedding"] == photos[2]["embedding"] and first["year"] == "1999"
    assert second["problem"] == "missing"
    store.pipe_file("/s/words.txt", b"red\nblue\n")
    assert [row["caption"] for row in rows("memory://s/words.txt")] == ["red", "blue"]
    pq.write_table(pq.read_table(tmp_path / "out").select([1]), tmp_path / "t")
    store.put(str(tmp_path / "t"), "/s/words.parquet")
    assert len(rows("memory://s/words.parquet")) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["index", "memory://s/nothing"], "memory://s/nothing"),
        (["index", "https://127.0.0.1:9/photos"], "SOURCE"),
        (["embed", "memory://s/nothing"], "memory://s/nothing"),
        (["embed", "memory://s/photos/red.png"], "SOURCE"),
    ],
)
def test_wrong_sources_are_reported_in_one_line(
    store, tmp_path, capsys, arguments, message
):
    option = {"index": "--index", "embed": "--to"}[arguments[0]]
    words = [*arguments, option, str(tmp_path / "out"), "--model", str(GOLDEN)]
    assert main(words) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert message in line, line


def test_a_table_at_an_address_has_the_same_pairs_as_a_local_copy(store, tmp_path):
    (tmp_path / "table.csv").write_bytes(TABLE)
    local_counter, remote_counter = DropCounter(), DropCounter()
    local_pairs = list(read_pairs(tmp_path / "table.csv", counter=local_counter))
    remote_pairs = list(read_pairs("memory://s/table.csv", counter=remote_counter))
    assert local_counter.as_metadata() == remote_counter.as_metadata()
    assert [(pair.id, pair.captions) for pair in remote_pairs] == [
        (pair.id, pair.captions) for pair in local_pairs
    ]
    assert [pair.image_path for pair in remote_pairs] == [
        "memory://s/photos/red.png",
        "memory://s/s/gone.png",
    ]
    store.pipe_file("/s/bad.csv", b"a,b\n1,2\n")
    with pytest.raises(InputError, match="memory://s/bad.csv"):
        read_pairs("memory://s/bad.csv", counter=DropCounter())
    with pytest.raises(IsADirectoryError, match="folder"):
        read_pairs("memory://s/photos", counter=DropCounter())


def test_errors_name_the_address_of_a_local_copy(store):
    with pytest.raises(InputError, match="^memory://s/table.csv is bad$"):
        with local_copy("memory://s/table.csv") as copy:
            raise InputError(f"{copy} is bad")
    assert not copy.parent.exists()
