"""What all kinds have in common: clean captions, storable text, no surprise."""

import io
import json
import os
import tarfile

import pytest
from source_reading import read_source

from align_keras.corpus.picture import PictureError
from align_keras.corpus.sources import open_source, read_location
from align_keras.utils.errors import InputError


def test_what_no_file_can_hold_is_replaced(tmp_path):
    rows = [
        {"image": "\ud800.jpg", "caption": " A\t\ud800cat\x00 "},
        {"image": "b.jpg", "caption": "\ud800"},
        {"image": "c.jpg", "caption": "x" * 2001},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    [pair], counter = read_source(path)
    assert pair.caption == "A cat"
    "".join(pair).encode("utf-8")
    assert counter.bad == {"empty caption": 1, "long caption": 1}


def test_columns_that_no_file_can_hold(tmp_path):
    row = {"caption": "A cat", "language": "\ud800", "page_url": "https://e.org/\udfff"}
    members = {"a.jpg": b"x", "a.json": json.dumps(row).encode()}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    [pair], _ = read_source(tmp_path)
    assert pair[1:] == ("A cat", "caption", "?", "https://e.org/?")


def test_languages_are_in_lower_case(tmp_path):
    pytest.importorskip("selectolax")
    (tmp_path / "a.html").write_text("<p lang=' zh-Hant '><img src=a.png alt=x>")
    assert read_source(tmp_path)[0][0].language == "zh-hant"


def test_a_part_says_what_it_is(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption\na.jpg,A cat\n")
    [part] = open_source(str(tmp_path)).parts()
    assert str(part) == f"table:{tmp_path}/a.csv[0:1]"


def test_alt_texts_of_crawls_that_name_files_are_left_out(tmp_path):
    rows = ["../img/a_1.png", "A cat"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, caption in enumerate(rows):
            for suffix, content in ((".jpg", b"x"), (".txt", caption.encode())):
                member = tarfile.TarInfo(f"{number}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    [pair], counter = read_source(tmp_path)
    assert pair.caption == "A cat" and not counter.bad
    assert counter.filtered == {"caption is a file name or an address": 1}
    # What someone wrote into a table is a caption.
    table = tmp_path / "table.csv"
    table.write_text("image,caption\na.jpg,large_braces.svg\n")
    assert [pair.caption for pair in read_source(table)[0]] == ["large_braces.svg"]


@pytest.mark.parametrize(
    "name", ["a.html", "a.warc", "a.wat.gz", "a.tar", "a.tfrecord", "a.jpg", "a.csv"]
)
def test_pipes_among_the_files_of_a_source_are_counted(tmp_path, name):
    pytest.importorskip("selectolax")
    pytest.importorskip("warcio")
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="a pipe"):
        open_source(str(tmp_path / name))
    if name == "a.csv":  # Whose rows are counted before.
        with pytest.raises(InputError, match="not a regular file"):
            read_source(tmp_path)
        return
    (tmp_path / "a.txt").write_text("A cat")
    pairs, counter = read_source(f"folder:{tmp_path}" if name == "a.jpg" else tmp_path)
    if name == "a.jpg":
        with pytest.raises(PictureError, match="unreadable: .*not a regular file"):
            read_location(pairs[0].image)
    else:
        assert not pairs and counter.bad == {"unreadable": 1}
