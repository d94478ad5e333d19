"""Compares bulk embeddings with those of the model, and tests resuming after kills."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from align_keras import load_model
from align_keras.embedders.litert_embedder import LiteRTEmbedder
from align_keras.embedders.locations import locate_model
from align_keras.search.bulk_embeddings import embed
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes

pytestmark = pytest.mark.ci
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN)


@pytest.fixture
def images(tmp_path):
    """Returns a folder of images, one broken file and one empty file."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in COLORS:
        (folder / f"{name}.png").write_bytes(image_bytes(name))
        (folder / "sub" / f"{name}.jpg").write_bytes(image_bytes(name, format="JPEG"))
    (folder / "broken.png").write_bytes(b"junk")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(image_bytes("red"))
    return folder


def rows_of(files):
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def json_rows_of(files):
    """Returns the columns next to NPY files."""
    return [
        json.loads(line)
        for file in files
        for line in file.with_suffix(".jsonl").read_text().split("\n")
        if line
    ]


def test_a_folder_of_images_is_embedded(images, model, tmp_path):
    done = embed(images, tmp_path / "out", model=model, rows_per_file=4)
    rows = rows_of(done.files)
    names = ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert sorted(os.listdir(tmp_path / "out")) == [".embed.lock", *names]
    # pyarrow reads the folder as one table.
    assert pq.read_table(tmp_path / "out").to_pylist() == rows
    assert done.rows == len(rows) == 9
    assert done.problems == {"unreadable": 1, "empty": 1}
    assert [row["id"] for row in rows] == [
        "blue.png",
        "broken.png",
        "empty.jpg",
        "green.png",
        "red.png",
        "\\udcff.png",
        "sub/blue.jpg",
        "sub/green.jpg",
        "sub/red.jpg",
    ]
    for row in rows:
        if row["problem"]:
            assert row["embedding"] is None
            continue
        path = os.fsencode(row["path"]).replace(b"\\udcff", b"\xff")
        (expected,) = model.encode_images([os.fsdecode(path)])
        np.testing.assert_array_equal(np.float32(row["embedding"]), expected)


TABLE = [
    {"id": 7, "image": "images/red.png", "caption": "red", "price": 1.5, "tags": ["a"]},
    {"id": 8, "image": "images/none.png", "caption": "", "price": 2, "tags": "b"},
    {"id": 9, "image": None, "caption": "blue  green", "price": None, "tags": None},
]


def table_of(kind, folder):
    path = folder / f"table.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in TABLE))
    elif kind == "csv":
        lines = (f"{r['id']},{r['image'] or ''},{r['caption']}\n" for r in TABLE)
        path.write_text("id,image,caption\n" + "".join(lines))
    else:
        import pyarrow

        plain = [{**row, "tags": None} for row in TABLE]
        pq.write_table(pyarrow.Table.from_pylist(plain), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_table_keeps_its_columns(kind, images, model, tmp_path):
    path = table_of(kind, tmp_path)
    rows = rows_of(embed(path, tmp_path / "a", model=model, rows_per_file=1).files)
    assert [str(row["id"]) for row in rows] == ["7", "8", "9"]
    assert [row["problem"] for row in rows] == [None, "missing", "missing"]
    (red,) = model.encode_images([images / "red.png"])
    np.testing.assert_array_equal(np.float32(rows[0]["embedding"]), red)
    if kind == "jsonl":
        assert [row["price"] for row in rows] == [1.5, 2.0, None]
        # Values of mixed types are stored as JSON.
        assert [row["tags"] for row in rows] == ['["a"]', '"b"', None]
    captions = embed(path, tmp_path / "b", model=model, inputs="captions")
    rows = rows_of(captions.files)
    assert [row["problem"] for row in rows] == [None, "empty caption", None]
    expected = model.encode_texts(["red", "blue green"])
    embeddings = np.float32([rows[0]["embedding"], rows[2]["embedding"]])
    np.testing.assert_array_equal(embeddings, expected)


@pytest.fixture
def without_pyarrow(monkeypatch):
    """Lets imports of pyarrow fail."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)


def test_a_text_file_is_embedded_to_npy_shards(model, tmp_path, without_pyarrow):
    lines = ["red", "", "green blue", "x\u2028y", "blue"]
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    done = embed(tmp_path / "captions.txt", out, model=model, rows_per_file=2)
    assert done.rows == 5 and done.problems == {"empty caption": 1}
    assert [file.name for file in done.files] == ["00000.npy", "00001.npy", "00002.npy"]
    vectors = np.concatenate([np.load(file) for file in done.files])
    np.testing.assert_array_equal(np.isnan(vectors).all(axis=1), [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(vectors[[0, 4]], model.encode_texts(["red", "blue"]))
    columns = json_rows_of(done.files)
    assert [row["caption"] for row in columns] == lines
    assert [row["id"] for row in columns] == [1, 2, 3, 4, 5]


def test_images_are_embedded_to_npy_shards_without_pyarrow(
    images, model, tmp_path, without_pyarrow
):
    done = embed(images, tmp_path / "out", model=model, rows_per_file=4)
    assert done.rows == 9 and done.problems == {"unreadable": 1, "empty": 1}
    names = [f"0000{n}.{kind}" for n in range(3) for kind in ("jsonl", "npy")]
    assert sorted(os.listdir(tmp_path / "out")) == [".embed.lock", *names]
    vectors = np.concatenate([np.load(file) for file in done.files])
    for row, vector in zip(json_rows_of(done.files), vectors, strict=True):
        if row.get("problem"):
            assert np.isnan(vector).all()
            continue
        path = os.fsencode(row["path"]).replace(b"\\udcff", b"\xff")
        (expected,) = model.encode_images([os.fsdecode(path)])
        np.testing.assert_array_equal(vector, expected)


def test_a_table_is_embedded_to_npy_shards_without_pyarrow(
    images, model, tmp_path, without_pyarrow
):
    path = table_of("jsonl", tmp_path)
    done = embed(path, tmp_path / "out", model=model, inputs="captions")
    assert done.problems == {"empty caption": 1}
    rows = json_rows_of(done.files)
    assert rows == [TABLE[0], {**TABLE[1], "problem": "empty caption"}, TABLE[2]]


def test_kills_do_not_change_the_output(tmp_path):
    """A job that is killed twice writes the same bytes as another job."""
    source = tmp_path / "captions.txt"
    words = list(COLORS)
    source.write_text(
        "".join(f"{words[n % 3]} {words[n % 2]} {n}\n" for n in range(1500))
    )
    expected = embed(source, tmp_path / "a", model=GOLDEN, rows_per_file=50)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "align_keras.cli.main", "embed", str(source)]
    command += ["--to", str(out), "--model", str(GOLDEN), "--rows-per-file", "50"]
    # The last kill happens while the shards are written.
    for pattern in (".tasks/*.json", "0*.parquet"):
        done = len(list(out.glob(pattern)))
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(list(out.glob(pattern))) < done + 3:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (out / ".tasks").exists() and len(list(out.glob("0*"))) < 30
    subprocess.run(command, check=True)
    assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "a"))
    for file in expected.files:
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_a_resumed_job_embeds_the_present_rows(images, model, tmp_path):
    class Interrupted(Exception):
        pass

    class CountingModel(LiteRTEmbedder):
        """Model that counts its images, and whose call may raise an exception."""

        images = 0
        limit = None

        def encode_resized(self, pixels):
            if self.limit is not None and self.images >= self.limit:
                raise Interrupted
            self.images += len(pixels)
            return super().encode_resized(pixels)

    counting = CountingModel(locate_model(GOLDEN))
    counting.limit = 3
    with pytest.raises(Interrupted):
        embed(images, tmp_path / "out", model=counting, rows_per_file=2)
    (images / "red.png").rename(images / "sub" / "a_new_name.png")
    counting.limit = None
    done = embed(images, tmp_path / "out", model=counting, rows_per_file=2)
    # Four images of three shards were embedded before. The third shard has changed.
    assert done.rows == 9 and counting.images == 4 + 5
    expected = embed(images, tmp_path / "expected", model=model, rows_per_file=2)
    assert rows_of(done.files) == rows_of(expected.files)
    with pytest.raises(InputError, match="to"):
        embed(images, tmp_path / "out", model=model, rows_per_file=2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"source": "none"}, "source"),
        ({"source": "images", "inputs": "captions"}, "inputs"),
        ({"source": "a.txt", "to": "full"}, "full"),
        ({"source": "blank.txt"}, "source"),
        ({"source": "table.csv", "column": "x"}, "column"),
        ({"source": "taken.csv"}, "embedding"),
        ({"source": "plain.csv"}, "column"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message, images, model, tmp_path):
    files = {
        "a.txt": "red\n",
        "blank.txt": "",
        "table.csv": "image\na.png\n",
        "taken.csv": "image,embedding\na.png,1\n",
        "plain.csv": "a,b\n1,2\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("notes")
    before = sorted(tmp_path.rglob("*"))
    options = {"to": "out", **arguments}
    source, to = tmp_path / options.pop("source"), tmp_path / options.pop("to")
    with pytest.raises(InputError, match=message):
        embed(source, to, model=model, **options)
    new = set(tmp_path.rglob("*")) - set(before)
    assert {path.name for path in new} <= {"out", ".embed.lock"}


@pytest.mark.parametrize("name", ["a\0b.png", "a\ud800b.png"])
def test_a_path_that_no_file_can_have_is_a_problem_of_its_row(
    images, model, tmp_path, name
):
    source = tmp_path / "table.jsonl"
    paths = [name, "images/red.png"]
    source.write_text("".join(json.dumps({"image": path}) + "\n" for path in paths))
    rows = rows_of(embed(source, tmp_path / "out", model=model).files)
    assert [row["problem"] for row in rows] == ["missing", None]
