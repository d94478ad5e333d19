"""Tests of Parquet files with images or with their addresses."""

import io

import pytest
from PIL import Image

from align_keras.corpus.sources import parquet_files
from align_keras.corpus.sources.location import read_location
from align_keras.corpus.sources.source import open_source, read_part
from align_keras.utils.errors import ImageError
from tests.helpers.source_case import SourceCase
from tests.helpers.source_reading import IMG2DATASET, read_source

pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


class TestParquet(SourceCase):
    kind = "parquet"
    path = "a.parquet"
    pairs = [("A cat", "caption", "en"), ("A dog", "caption", "de")]
    images = [b"cat", b"dog"]

    def write(self, folder):
        columns = {"jpg": self.images, "caption": ["A cat", "A dog"]}
        table = pyarrow.table({**columns, "language": ["en", "de"]})
        pq.write_table(table, folder / "a.parquet")


def test_tables_of_img2dataset_are_read():
    pairs, counter = read_source(IMG2DATASET / "parquet")
    assert sorted(pair[1:5] for pair in pairs) == [
        ('A "red" cat, seen', "alt", "en", "https://example.org/p"),
        ("Käse auf 木", "title", "de", "https://example.org/q"),
    ]
    image_of_caption = {pair.caption: read_location(pair.image) for pair in pairs}
    for row in pq.read_table(IMG2DATASET / "parquet/00000.parquet").to_pylist():
        if row["jpg"]:
            assert image_of_caption[row["caption"]] == row["jpg"]
            assert Image.open(io.BytesIO(row["jpg"])).size == (32, 24)
    assert counter.bad == {"empty caption": 1}
    assert counter.filtered == {"not downloaded": 1}
    assert "404" in counter.examples["not downloaded"]


def test_hugging_face_images_are_read(tmp_path):
    images = [{"bytes": b"one", "path": "a"}, {"bytes": None, "path": "b"}, None]
    path = tmp_path / "a.parquet"
    pq.write_table(pyarrow.table({"image": images, "text": ["a", "b", "c"]}), path)
    pairs, _ = read_source(path)
    assert read_location(pairs[0].image) == b"one"
    for pair, problem in zip(pairs[1:], ("no file", "no image"), strict=True):
        with pytest.raises(ImageError, match=f"missing: {problem}"):
            read_location(pair.image)


def test_paths_of_hugging_face_images_are_read(tmp_path):
    """`Dataset.to_parquet` writes the paths of local images without their bytes."""
    (tmp_path / "a.jpg").write_bytes(b"one")
    paths = ["a.jpg", f"{tmp_path}/a.jpg", "https://example.org/a.jpg"]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    images = pyarrow.array([{"bytes": None, "path": path} for path in paths], kind)
    table = pyarrow.table({"image": images, "text": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "a.parquet")
    pairs, _ = read_source(tmp_path / "a.parquet")
    assert [read_location(pair.image) for pair in pairs[:2]] == [b"one", b"one"]
    with pytest.raises(ImageError, match="missing: no bytes"):
        read_location(pairs[2].image)


def test_other_addresses_than_web_addresses_are_dropped(tmp_path):
    urls = ["https://example.org/a.jpg", "/etc/a.jpg", None, "file:///b", "data:,x"]
    table = pyarrow.table({"URL": urls, "TEXT": list("abcde")})
    pq.write_table(table, tmp_path / "a.parquet")
    pairs, counter = read_source(tmp_path)
    assert [pair.image for pair in pairs] == [urls[0], urls[4]]
    assert counter.bad == {"missing": 3}


def test_row_groups_are_divided_into_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "_ROWS_PER_PART", 100)
    count = 230
    urls = [f"https://example.org/{number}" for number in range(count)]
    captions = [f"cat {number}" for number in range(count)]
    table = pyarrow.table({"url": urls, "caption": captions})
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=50)
    pq.write_table(table.slice(0, 3), tmp_path / "a.parquet")
    source = open_source(f"parquet:{tmp_path}")
    parts = source.parts()
    assert [(part.files, part.start, part.stop) for part in parts] == [
        (("a.parquet",), 0, 1),
        (("b.parquet",), 0, 2),
        (("b.parquet",), 2, 4),
        (("b.parquet",), 4, 5),
    ]
    pairs, counter = read_source(f"parquet:{tmp_path}")
    assert [pair.image for pair in pairs] == urls[:3] + urls
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=60)
    assert list(read_part(parts[1], counter)) == []
    assert counter.bad == {"vanished": 1}


def test_empty_truncated_and_other_tables_are_counted(tmp_path):
    content = (IMG2DATASET / "parquet/00000.parquet").read_bytes()
    (tmp_path / "a.parquet").touch()
    (tmp_path / "b.parquet").write_bytes(content[:-100])
    (tmp_path / "c.parquet").write_bytes(content)
    pq.write_table(pyarrow.table({"id": [1]}), tmp_path / "d.parquet")
    pairs, counter = read_source(f"parquet:{tmp_path}")
    assert len(pairs) == 2
    for reason in ("empty shard", "truncated shard", "unreadable"):
        assert counter.bad[reason] == 1


def test_the_rows_of_a_damaged_row_group_are_dropped(tmp_path):
    path = tmp_path / "a.parquet"
    urls = [f"https://example.org/{number}" for number in range(300)]
    captions = [f"cat {number}" for number in range(300)]
    table = pyarrow.table({"url": urls, "caption": captions})
    pq.write_table(table, path, row_group_size=100, compression="zstd")
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    pairs, counter = read_source(path)
    assert [pair.image for pair in pairs] == urls[:100] + urls[200:]
    assert counter.bad == {"broken record": 100}
