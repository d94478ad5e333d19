"""Tests of folders with images and text files."""

import os

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import read_pairs
from align_keras.corpus.sources.location import read_location
from align_keras.corpus.sources.source import open_source, read_part
from tests.helpers.source_case import STRANGE_NAME, SourceCase
from tests.helpers.source_reading import read_source


class TestFolder(SourceCase):
    kind = "folder"
    pairs = [
        ("A cat", "caption", ""),
        ("A pet", "caption", ""),
        ("A dog", "caption", ""),
    ]
    images = [b"cat", b"cat", b"dog"]

    def write(self, folder):
        (folder / f"{STRANGE_NAME}.jpg").write_bytes(b"cat")
        (folder / f"{STRANGE_NAME}.txt").write_text("A cat\nA pet\n")
        (folder / "b.PNG").write_bytes(b"dog")
        (folder / "b.txt").write_text("A dog")


def test_pairs_equal_the_result_of_read_pairs(tmp_path):
    for name in ("a", "sub/x", "sub/x.y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.JPG").write_bytes(name.encode())
        (tmp_path / f"{name}.txt").write_text(f"\ufeff{name}\n\n  two  \n", "utf-8")
    (tmp_path / "lonely.png").touch()
    (tmp_path / "empty.png").touch()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "README.txt").write_text("Read me.")
    expected_counter = DropCounter()
    expected = [
        (str(record.image_path), caption)
        for record in read_pairs(tmp_path, counter=expected_counter)
        for caption in record.captions
    ]
    pairs, counter = read_source(tmp_path)
    assert sorted(pair[:2] for pair in pairs) == sorted(expected)
    assert counter.bad == {"no caption file": 1, "empty caption": 1}
    assert counter.bad == expected_counter.bad
    for pair in pairs[::2]:
        name = os.path.relpath(pair.image, tmp_path)[: -len(".JPG")]
        assert read_location(pair.image).decode() == name


def test_wrong_encodings_and_removed_files_are_counted(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
        (tmp_path / f"{name}.txt").write_bytes(b"K\xe4se" if name == "a" else b"cat")
    [part] = open_source(f"folder:{tmp_path}").parts()
    (tmp_path / "c.png").unlink()
    (tmp_path / "c.txt").unlink()
    counter = DropCounter()
    assert [pair.caption for pair in read_part(part, counter)] == ["cat"]
    assert counter.bad == {"wrong encoding": 1, "vanished": 1}


def test_unicode_separators_do_not_divide_captions(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.txt").write_bytes("one\u2028two,\x85three\r\nlast".encode())
    pairs, _ = read_source(tmp_path)
    assert [pair.caption for pair in pairs] == ["one two, three", "last"]


def test_the_original_size_is_read_from_the_metadata_of_img2dataset(tmp_path):
    for name, metadata in (
        ("a", '{"original_width": 60, "original_height": 40}'),
        ("b", "[]"),
        ("c", "{broken"),
    ):
        (tmp_path / f"{name}.jpg").touch()
        (tmp_path / f"{name}.txt").write_text("A cat")
        (tmp_path / f"{name}.json").write_text(metadata)
    pairs, _ = read_source(tmp_path)
    assert [pair.original_size for pair in pairs] == [(60, 40), None, None]
