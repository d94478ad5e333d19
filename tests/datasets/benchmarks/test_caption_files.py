import json
import pathlib

import pytest

from align_keras.datasets.benchmarks import read_caption_files
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import write_picture


@pytest.fixture
def album(tmp_path):
    for row in range(4):
        write_picture(tmp_path / "pictures" / f"{row}.png", row)
    return tmp_path


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_of_one_picture_make_one_with_several_captions(album):
    table = write(
        album / "a.csv",
        "style,path,caption,year",
        "ink,pictures/0.png,A cat,1990",
        "oil,pictures/1.png,A dog,1991",
        'chalk,pictures/0.png,"A pet, sleeping",1992',
        "ink,./pictures/1.png,A hound,1993",
    )
    data = read_caption_files(table)
    assert data.images == [str(album / "pictures" / f"{row}.png") for row in (0, 1)]
    assert data.captions == [["A cat", "A pet, sleeping"], ["A dog", "A hound"]]
    assert data.image_ids == ["pictures/0.png", "pictures/1.png"]
    assert data.caption_ids[1] == ["pictures/1.png#0", "pictures/1.png#1"]
    # The value of the first row; the pictures' and the captions' own are left out.
    assert data.columns == {"style": ["ink", "oil"], "year": ["1990", "1991"]}


def test_ids_are_no_column(album):
    table = write(album / "a.tsv", "ID\timage\ttext", "7\tpictures/0.png\tA cat")
    data = read_caption_files(table)
    assert data.image_ids == ["7"] and data.columns == {}


def test_json_lines(album):
    rows = [
        {"image": "pictures/2.png", "caption": ["A cat", "A pet"], "n": 3},
        {"image": "pictures/3.png", "caption": "A dog", "other": "x"},
    ]
    table = write(album / "a.jsonl", *map(json.dumps, rows))
    data = read_caption_files(str(table))
    assert data.captions == [["A cat", "A pet"], ["A dog"]]
    assert data.columns == {"n": [3, ""], "other": ["", "x"]}


def test_a_folder(album):
    folder = album / "pictures"
    for row in range(4):
        write(folder / f"{row}.txt", f"number {row}", f"the {row}th")
    data = read_caption_files(folder)
    assert data.captions[2] == ["number 2", "the 2th"]
    assert pathlib.Path(data.images[2]).name == "2.png"
    assert data.columns == {}


def test_unusable_rows_are_left_out_and_told(album, capsys):
    table = write(
        album / "a.csv",
        "image,caption,kind",
        "pictures/0.png,,x",
        "pictures/0.png,A cat,y",
        "pictures/1.png,A dog,z,too much",
        "pictures/2.png,A fly,w",
    )
    data = read_caption_files(table)
    assert data.captions == [["A cat"], ["A fly"]]
    # The row of the first good caption gives the columns.
    assert data.columns == {"kind": ["y", "w"]}
    told = capsys.readouterr().err
    assert "1 dropped, empty caption: a.csv line 2" in told
    assert "1 dropped, malformed line: a.csv line 4" in told


def test_columns_and_an_encoding_that_are_given(album):
    table = album / "a.csv"
    table.write_text("image,motif,fichier\nnon,Été,pictures/0.png\n", "cp1252")
    with pytest.raises(InputError, match="must be encoded as utf-8.*`encoding`"):
        read_caption_files(table)
    data = read_caption_files(
        table, image_column="fichier", caption_column="motif", encoding="cp1252"
    )
    assert data.captions == [["Été"]] and data.columns == {"image": ["non"]}


def test_missing_pictures(album, capsys):
    table = write(
        album / "a.csv",
        "image,caption,kind",
        "gone.png,A ghost,x",
        "pictures/0.png,A cat,y",
    )
    with pytest.raises(InputError, match="1 of 2 images of a.csv .*gone.png"):
        read_caption_files(table)
    data = read_caption_files(table, allow_missing=True)
    assert data.captions == [["A cat"]] and data.columns == {"kind": ["y"]}
    assert "gone.png; left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,caption"], "received none: add rows"),
        (["image,caption", "a.png,"], "received none: 1 dropped, empty caption"),
        (["image,label", "a.png,x"], "must have a column for the captions"),
    ],
)
def test_nothing_usable(album, lines, message):
    with pytest.raises(InputError, match=message) as caught:
        read_caption_files(write(album / "a.csv", *lines))
    assert "\n" not in str(caught.value)


def test_no_such_path(tmp_path):
    with pytest.raises(InputError, match="which does not exist"):
        read_caption_files(tmp_path / "a.csv")
