"""Tests of the reader of a user's captioned images."""

import json
import pathlib

import pytest

from align_keras.datasets.benchmarks import read_caption_files
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import write_image


@pytest.fixture
def album(tmp_path):
    for row in range(4):
        write_image(tmp_path / "images" / f"{row}.png", row)
    return tmp_path


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_of_the_same_image_are_joined(album):
    table = write(
        album / "a.csv",
        "style,path,caption,year",
        "ink,images/0.png,A cat,1990",
        "oil,images/1.png,A dog,1991",
        'chalk,images/0.png,"A pet, sleeping",1992',
        "ink,./images/1.png,A hound,1993",
    )
    data = read_caption_files(table)
    assert data.images == [str(album / "images" / f"{row}.png") for row in (0, 1)]
    assert data.captions == [["A cat", "A pet, sleeping"], ["A dog", "A hound"]]
    assert data.image_ids == ["images/0.png", "images/1.png"]
    assert data.caption_ids[1] == ["images/1.png#0", "images/1.png#1"]
    # Other columns have the value of the first row.
    assert data.columns == {"style": ["ink", "oil"], "year": ["1990", "1991"]}


def test_the_id_is_not_among_the_columns(album):
    table = write(album / "a.tsv", "ID\timage\ttext", "7\timages/0.png\tA cat")
    data = read_caption_files(table)
    assert data.image_ids == ["7"] and data.columns == {}


def test_json_lines_are_read(album):
    rows = [
        {"image": "images/2.png", "caption": ["A cat", "A pet"], "n": 3},
        {"image": "images/3.png", "caption": "A dog", "other": "x"},
    ]
    table = write(album / "a.jsonl", *map(json.dumps, rows))
    data = read_caption_files(str(table))
    assert data.captions == [["A cat", "A pet"], ["A dog"]]
    assert data.columns == {"n": [3, ""], "other": ["", "x"]}


def test_a_folder_of_images_and_text_files_is_read(album):
    folder = album / "images"
    for row in range(4):
        write(folder / f"{row}.txt", f"number {row}", f"the {row}th")
    data = read_caption_files(folder)
    assert data.captions[2] == ["number 2", "the 2th"]
    assert pathlib.Path(data.images[2]).name == "2.png"
    assert data.columns == {}


def test_unusable_rows_are_left_out_and_reported(album, capsys):
    table = write(
        album / "a.csv",
        "image,caption,kind",
        "images/0.png,,x",
        "images/0.png,A cat,y",
        "images/1.png,A dog,z,too much",
        "images/2.png,A fly,w",
    )
    data = read_caption_files(table)
    assert data.captions == [["A cat"], ["A fly"]]
    # Other columns have the value of the first usable row.
    assert data.columns == {"kind": ["y", "w"]}
    messages = capsys.readouterr().err
    assert "empty caption: a.csv line 2" in messages
    assert "malformed line: a.csv line 4" in messages


def test_arguments_select_columns_and_encoding(album):
    table = album / "a.csv"
    table.write_text("image,motif,fichier\nnon,Été,images/0.png\n", "cp1252")
    with pytest.raises(InputError, match="encoding"):
        read_caption_files(table)
    data = read_caption_files(
        table, image_column="fichier", caption_column="motif", encoding="cp1252"
    )
    assert data.captions == [["Été"]] and data.columns == {"image": ["non"]}


def test_missing_images_raise_or_are_left_out(album, capsys):
    table = write(
        album / "a.csv",
        "image,caption,kind",
        "gone.png,A ghost,x",
        "images/0.png,A cat,y",
    )
    with pytest.raises(InputError, match="gone.png"):
        read_caption_files(table)
    data = read_caption_files(table, allow_missing=True)
    assert data.captions == [["A cat"]] and data.columns == {"kind": ["y"]}
    assert "gone.png" in capsys.readouterr().err


def test_a_table_without_usable_rows_raises(album):
    with pytest.raises(InputError, match="empty caption"):
        read_caption_files(write(album / "a.csv", "image,caption", "a.png,"))
