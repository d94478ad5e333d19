"""Tests of the tables that collect the captions of each image."""

import collections
import contextlib
import random
import zlib

import pytest

from align_keras.corpus import image_tables
from align_keras.corpus.duplicates.near_duplicates import (
    DUPLICATE,
    NEAR_DUPLICATE,
    NEAR_EVALUATION,
    Dropped,
)
from align_keras.corpus.image_tables import (
    cut_table,
    group_piece,
    image_schema,
    kept_captions,
    kept_images,
    piece_path,
    stored_schema,
)
from align_keras.corpus.parquet_tables import pair_schema, read_rows, table_writer


def pair(key, caption, image="", **columns):
    row = {
        "image": image or f"/images/{key}.jpg",
        "image_key": key,
        "width": 300,
        "height": 200,
        "caption": caption,
        "rule": "alt",
        "language": "en",
        "page_url": "",
        "source": "html:a",
    }
    return row | columns


PAIRS = [
    pair("a" * 32, "A cat"),
    pair("a" * 32, "A cat", rule="title", source="html:b"),
    pair("a" * 32, "Kitty", image="/copies/a.jpg"),
    pair("b" * 32, "A dog"),
    pair("https://x.org/c.jpg", "Far away", image="https://x.org/c.jpg"),
]


def group_pairs(folder, pairs, table_count, piece_count):
    """Writes pairs to tables and groups them by image. Returns the rows of the images.

    Args:
        folder: path of a folder for the files.
        pairs: list of dict.
        table_count: int, number of tables among which the pairs are divided.
        piece_count: int, number of pieces of each table.
    """
    names = []
    for number in range(table_count):
        path = folder / f"part-{number}.parquet"
        table_pairs = pairs[number::table_count]
        with table_writer(path, pair_schema()) as append:
            append(table_pairs)
        names.append(path.stem)
        pieces = str(folder / "pieces")
        task = {"table": str(path), "folder": pieces, "pieces": piece_count}
        remote_count = sum("https:" in row["image"] for row in table_pairs)
        assert cut_table(task) == {"remote": remote_count}
    all_rows = []
    for piece in range(piece_count):
        path = folder / f"group-{piece}.parquet"
        task = {"folder": str(folder / "pieces"), "names": names, "piece": piece}
        counts = group_piece({**task, "table": str(path)})
        rows = list(read_rows(path))
        assert counts["images"] == len(rows)
        assert counts["pairs"] == sum(len(row["captions"]) for row in rows)
        assert rows == sorted(rows, key=lambda row: row["image_key"])
        all_rows += rows
    return sorted(all_rows, key=lambda row: row["image_key"])


def test_the_captions_of_an_image_are_collected_without_repetitions(tmp_path):
    first, second = group_pairs(tmp_path, PAIRS, table_count=1, piece_count=1)
    assert first["image_key"] == "a" * 32
    assert first["image"] == "/copies/a.jpg"
    assert [text["caption"] for text in first["captions"]] == ["A cat", "Kitty"]
    # Two rows have the caption "A cat". The first one in the sorted order is used.
    assert first["captions"][0]["source"] == "html:a"
    assert [text["caption"] for text in second["captions"]] == ["A dog"]


def test_the_result_is_independent_of_order_tables_and_pieces(tmp_path):
    expected = group_pairs(tmp_path / "a", PAIRS, table_count=1, piece_count=1)
    for table_count, piece_count in ((1, 3), (2, 1), (3, 4)):
        shuffled = random.Random(table_count).sample(PAIRS, len(PAIRS))
        folder = tmp_path / f"{table_count}{piece_count}"
        assert group_pairs(folder, shuffled, table_count, piece_count) == expected


def test_many_pieces_are_written_with_few_open_files(tmp_path, monkeypatch):
    pairs = [pair(f"{number:032}", "A cat") for number in range(60)]
    pairs.append(pair("https://x.org/c.jpg", "Far", image="https://x.org/c.jpg"))
    path = tmp_path / "part.parquet"
    with table_writer(path, pair_schema()) as append:
        append(pairs)
    open_files, counts = set(), []

    @contextlib.contextmanager
    def count_open_files(path, schema):
        open_files.add(path)
        counts.append(len(open_files))
        with table_writer(path, schema) as append:
            yield append
        open_files.remove(path)

    monkeypatch.setattr(image_tables, "table_writer", count_open_files)
    monkeypatch.setattr(image_tables, "MAX_OPEN_PIECES", 20)
    folder = tmp_path / "pieces"
    task = {"table": str(path), "folder": str(folder), "pieces": 22}
    assert cut_table(task) == {"remote": 1}
    assert len(counts) == 22 and max(counts) <= 20
    keys = []
    for number in range(22):
        rows = list(read_rows(piece_path(folder, "part", number)))
        assert all(zlib.crc32(row["image_key"].encode()) % 22 == number for row in rows)
        keys += [row["image_key"] for row in rows]
    assert sorted(keys) == [row["image_key"] for row in pairs[:-1]]


DROPPED = [
    Dropped("b", DUPLICATE, "a", ""),
    Dropped("c", NEAR_DUPLICATE, "a", ""),
    Dropped("d", NEAR_EVALUATION, "x", "stamps"),
]


def text(caption, language="en-us"):
    columns = {"caption": caption, "rule": "alt", "language": language}
    return columns | {"page_url": "page", "source": "html:a"}


@pytest.fixture
def tables(tmp_path):
    """Paths of two tables of images with captions, and of their decoded images."""
    groups = [
        [("a", ["A cat", "Zoo cat"]), ("b", ["A cat", "Kitty"]), ("c", ["Cropped"])],
        [("d", ["A stamp"]), ("e", ["Broken"]), ("f", ["A red bus in London"])],
    ]
    group_paths, stored_paths = [], []
    for number, group in enumerate(groups):
        group_path = tmp_path / f"group-{number}"
        stored_path = tmp_path / f"part-{number}"
        with table_writer(group_path, image_schema()) as append:
            append(
                [
                    {
                        "image_key": key,
                        "image": f"/{key}.jpg",
                        "width": 400,
                        "height": 300,
                        "captions": [text(caption) for caption in captions],
                    }
                    for key, captions in group
                ]
            )
        with table_writer(stored_path, stored_schema()) as append:
            append(
                [
                    {
                        "image_key": key,
                        "pixel_key": 2 * key,
                        "fault": "truncated" if key == "e" else "",
                        "jpeg": key.encode(),
                    }
                    for key, _ in group
                ]
            )
        group_paths.append(str(group_path))
        stored_paths.append(str(stored_path))
    return [group_paths, stored_paths]


def test_only_the_captions_of_exact_duplicates_are_kept(tables):
    first, second = kept_images(*tables, DROPPED)
    assert first["captions"] == ["A cat", "Kitty", "Zoo cat"]
    assert first["sources"] == ["html:a"] * 3
    assert (first["id"], first["image_key"], first["image"]) == ("a", "aa", b"a")
    assert (first["width"], first["height"], first["location"]) == (400, 300, "/a.jpg")
    assert second["captions"] == ["A red bus in London"]


def test_dropped_images_can_be_lists_from_json(tables):
    as_lists = [list(dropped) for dropped in DROPPED]
    assert list(kept_images(*tables, as_lists)) == list(kept_images(*tables, DROPPED))


def test_captions_have_their_primary_language(tables):
    captions = collections.Counter(kept_captions(*tables, DROPPED))
    expected = ["A cat", "Kitty", "Zoo cat", "A red bus in London"]
    assert captions == collections.Counter((caption, "en") for caption in expected)
