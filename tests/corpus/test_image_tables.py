import collections
import random

import pytest

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
    stored_schema,
)
from align_keras.corpus.parquet_tables import pair_schema, read_rows, table_writer


def pair(key, caption, image="", **others):
    own = {
        "image": image or f"/pictures/{key}.jpg",
        "image_key": key,
        "width": 300,
        "height": 200,
        "caption": caption,
        "rule": "alt",
        "language": "en",
        "page_url": "",
        "source": "html:a",
    }
    return own | others


PAIRS = [
    pair("a" * 32, "A cat"),
    pair("a" * 32, "A cat", rule="title", source="html:b"),
    pair("a" * 32, "Kitty", image="/copies/a.jpg"),
    pair("b" * 32, "A dog"),
    pair("https://x.org/c.jpg", "Far away", image="https://x.org/c.jpg"),
]


def grouped(folder, pairs, tables, pieces):
    """All pictures, by way of so many tables and pieces."""
    names = []
    for number in range(tables):
        path = folder / f"part-{number}.parquet"
        with table_writer(path, pair_schema()) as append:
            append(pairs[number::tables])
        names.append(path.stem)
        task = {"table": str(path), "folder": str(folder / "cut"), "pieces": pieces}
        remote = sum("https:" in own["image"] for own in pairs[number::tables])
        assert cut_table(task) == {"remote": remote}
    rows = []
    for piece in range(pieces):
        path = folder / f"group-{piece}.parquet"
        task = {"folder": str(folder / "cut"), "names": names, "piece": piece}
        counts = group_piece({**task, "table": str(path)})
        found = list(read_rows(path))
        assert counts["pictures"] == len(found)
        assert counts["pairs"] == sum(len(own["captions"]) for own in found)
        assert found == sorted(found, key=lambda own: own["image_key"])
        rows += found
    return sorted(rows, key=lambda own: own["image_key"])


def test_a_pictures_captions_come_together_each_once(tmp_path):
    first, second = grouped(tmp_path, PAIRS, tables=1, pieces=1)
    assert first["image_key"] == "a" * 32
    assert first["image"] == "/copies/a.jpg"
    assert [own["caption"] for own in first["captions"]] == ["A cat", "Kitty"]
    assert first["captions"][0]["source"] == "html:a"  # The smallest origin.
    assert [own["caption"] for own in second["captions"]] == ["A dog"]


def test_neither_order_nor_tables_nor_pieces_matter(tmp_path):
    expected = grouped(tmp_path / "a", PAIRS, tables=1, pieces=1)
    for tables, pieces in ((1, 3), (2, 1), (3, 4)):
        shuffled = random.Random(tables).sample(PAIRS, len(PAIRS))
        folder = tmp_path / f"{tables}{pieces}"
        assert grouped(folder, shuffled, tables, pieces) == expected


def test_remote_pictures_are_counted_and_left_out(tmp_path):
    path = tmp_path / "part.parquet"
    with table_writer(path, pair_schema()) as append:
        append(PAIRS)
    task = {"table": str(path), "folder": str(tmp_path / "cut"), "pieces": 2}
    assert cut_table(task) == {"remote": 1}


DROPPED = [
    Dropped("b", DUPLICATE, "a", ""),
    Dropped("c", NEAR_DUPLICATE, "a", ""),
    Dropped("d", NEAR_EVALUATION, "x", "stamps"),
]


def text(caption, language="en-us"):
    own = {"caption": caption, "rule": "alt", "language": language}
    return own | {"page_url": "page", "source": "html:a"}


@pytest.fixture
def tables(tmp_path):
    groups = [
        [("a", ["A cat", "Zoo cat"]), ("b", ["A cat", "Kitty"]), ("c", ["Cropped"])],
        [("d", ["A stamp"]), ("e", ["Broken"]), ("f", ["A red bus in London"])],
    ]
    paths = []
    for number, group in enumerate(groups):
        own = tmp_path / f"group-{number}", tmp_path / f"part-{number}"
        with table_writer(own[0], image_schema()) as append:
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
        with table_writer(own[1], stored_schema()) as append:
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
        paths.append(own)
    return [[str(own[column]) for own in paths] for column in (0, 1)]


def test_equal_pictures_leave_their_captions_and_near_ones_do_not(tables):
    first, second = kept_images(*tables, DROPPED)
    assert first["captions"] == ["A cat", "Kitty", "Zoo cat"]
    assert first["sources"] == ["html:a"] * 3
    assert (first["id"], first["image_key"], first["image"]) == ("a", "aa", b"a")
    assert (first["width"], first["height"], first["location"]) == (400, 300, "/a.jpg")
    assert second["captions"] == ["A red bus in London"]


def test_dropped_may_have_been_json(tables):
    as_lists = [list(own) for own in DROPPED]
    assert list(kept_images(*tables, as_lists)) == list(kept_images(*tables, DROPPED))


def test_captions_come_with_their_language(tables):
    found = collections.Counter(kept_captions(*tables, DROPPED))
    expected = ["A cat", "Kitty", "Zoo cat", "A red bus in London"]
    assert found == collections.Counter((own, "en") for own in expected)
