"""Tests of opening sources and dividing them into parts."""

import json
import os
import pathlib
import pickle
import shutil
import tarfile

import pytest
from PIL import Image

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.location import member_location, read_location
from align_keras.corpus.sources.source import evaluation_source, open_source, read_part
from align_keras.utils.errors import ImageError, InputError
from tests.helpers.source_case import write_members
from tests.helpers.source_reading import IMG2DATASET, read_source


def kind_of(path):
    return open_source(str(path)).kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.HTML", "html"),
        ("a.warc.wat.gz", "wat"),
    ],
)
def test_the_kind_is_recognized_by_the_suffix(tmp_path, name, kind):
    (tmp_path / name).touch()
    (tmp_path / "notes.md").touch()
    assert kind_of(tmp_path / name) == kind_of(tmp_path) == kind


def test_the_kind_of_shards_is_recognized():
    for kind in ("webdataset", "parquet", "tfrecord"):
        assert kind_of(IMG2DATASET / kind) == kind


def test_the_output_files_of_img2dataset_are_a_folder(tmp_path):
    # The Parquet file is a log next to the folder of images.
    (tmp_path / "00000").mkdir()
    for name in ("00000.parquet", "00000/1.jpg", "00000/1.txt", "00000/1.json"):
        (tmp_path / name).touch()
    assert kind_of(tmp_path) == "folder"


def test_images_without_captions_are_ignored_for_the_kind(tmp_path):
    for name in ("a.html", "a.png", "robots.txt"):
        (tmp_path / name).touch()
    assert kind_of(tmp_path) == "html"


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "no known kind"),
        (["a.jpg", "b.txt"], "no known kind"),
        (["a.html", "b.csv"], "html and table"),
        (["a.jpg", "a.txt", "b.html"], "folder and html"),
    ],
)
def test_an_ambiguous_kind_must_be_specified(tmp_path, names, problem):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=problem):
        open_source(str(tmp_path))
    if names:
        (tmp_path / "a.html").touch()
        assert open_source(f"html:{tmp_path}").kind == "html"


@pytest.mark.parametrize(
    "spec",
    ["", "html:/nowhere", "zip:/tmp", "ftp://e.org/a", "tfds:x", "table:memory://none"],
)
def test_the_error_has_the_wrong_specification(spec):
    with pytest.raises(InputError) as error_info:
        open_source(spec)
    assert repr(spec) in str(error_info.value)


def test_a_folder_without_files_of_the_kind_raises_an_error(tmp_path):
    source = open_source(f"warc:{tmp_path}")
    with pytest.raises(InputError, match=r"\.warc, \.warc\.gz"):
        source.parts()


def test_a_source_that_was_removed_raises_an_error(tmp_path):
    path = tmp_path / "a.html"
    path.touch()
    source = open_source(str(path))
    path.unlink()
    with pytest.raises(InputError, match="a.html"):
        source.parts()


def test_paths_may_be_relative_and_unusual(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a b#%,木.html", "html:x", "a?images=b.html"):
        pathlib.Path(name).mkdir()
        pathlib.Path(name, "a.html").touch()
        source = open_source(f"html:{name}")
        assert source.path == str(tmp_path / name)
        [part] = source.parts()
        assert (part.root, part.files) == (str(tmp_path / name), ("a.html",))


def test_the_same_files_give_the_same_parts_and_fingerprint(tmp_path, monkeypatch):
    for number in range(201):
        path = tmp_path / f"{number % 7}/{number}.html"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    source = open_source(str(tmp_path))
    parts, fingerprint = source.parts(), source.fingerprint()
    assert [len(part.files) for part in parts] == [200, 1]
    assert parts == sorted(parts)
    assert pickle.loads(pickle.dumps(parts)) == parts
    # The order in which the system lists files does not matter.
    walk = os.walk
    monkeypatch.setattr(
        os,
        "walk",
        lambda top: [
            (folder, subfolders, names[::-1])
            for folder, subfolders, names in [*walk(top)][::-1]
        ],
    )
    assert source.parts() == parts and source.fingerprint() == fingerprint
    monkeypatch.undo()
    (tmp_path / "0/new.html").touch()
    assert source.fingerprint() != fingerprint


def test_a_copied_source_has_another_fingerprint(tmp_path):
    # The locations of the images are different.
    copy = tmp_path / "copy"
    shutil.copytree(IMG2DATASET / "webdataset", copy)
    original = open_source(f"webdataset:{IMG2DATASET / 'webdataset'}")
    copied = open_source(f"webdataset:{copy}")
    assert copied.fingerprint() != original.fingerprint()


def test_characters_that_utf8_cannot_encode_are_replaced(tmp_path):
    rows = [
        {"image": "\ud800.jpg", "caption": " A\t\ud800cat\x00 "},
        {"image": "b.jpg", "caption": "\ud800"},
        {"image": "c.jpg", "caption": "x" * 2001},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    [pair], counter = read_source(path)
    assert pair.caption == "A cat"
    "".join(pair[:5]).encode("utf-8")
    assert counter.bad == {"empty caption": 1, "long caption": 1}


def test_columns_that_utf8_cannot_encode_are_replaced(tmp_path):
    row = {"caption": "A cat", "language": "\ud800", "page_url": "https://e.org/\udfff"}
    members = {"a.jpg": b"x", "a.json": json.dumps(row).encode()}
    write_members(tmp_path / "a.tar", members.items())
    [pair], _ = read_source(tmp_path)
    assert pair[1:5] == ("A cat", "caption", "?", "https://e.org/?")


def test_the_string_of_a_part_has_its_kind_and_range(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption\na.jpg,A cat\n")
    [part] = open_source(str(tmp_path)).parts()
    assert str(part) == f"table:{tmp_path}/a.csv[0:1]"


def test_file_names_are_only_dropped_from_crawled_captions(tmp_path):
    members = {"0.jpg": b"x", "0.txt": b"../img/a_1.png"}
    members |= {"1.jpg": b"x", "1.txt": b"A cat"}
    write_members(tmp_path / "a.tar", members.items())
    [pair], counter = read_source(tmp_path)
    assert pair.caption == "A cat" and not counter.bad
    assert counter.filtered == {"caption is a file name or an address": 1}
    # Captions in a table were written on purpose.
    table = tmp_path / "table.csv"
    table.write_text("image,caption\na.jpg,large_braces.svg\n")
    assert [pair.caption for pair in read_source(table)[0]] == ["large_braces.svg"]


@pytest.mark.parametrize("name", ["a.jpg", "a.tar"])
def test_pipes_in_a_source_are_counted(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="a pipe"):
        open_source(str(tmp_path / name))
    (tmp_path / "a.txt").write_text("A cat")
    pairs, counter = read_source(f"folder:{tmp_path}" if name == "a.jpg" else tmp_path)
    if name == "a.jpg":
        with pytest.raises(ImageError, match="unreadable"):
            read_location(pairs[0].image)
    else:
        assert not pairs and counter.bad == {"unreadable": 1}


UNUSABLE_CAPTIONS = {"a": "", "b": "IMG_0001.jpg", "c": "x" * 2001, "d": "a cat"}


def write_images_in_folder(folder):
    for name, caption in UNUSABLE_CAPTIONS.items():
        Image.new("RGB", (9, 9)).save(folder / f"{name}.png")
        if name != "d":
            (folder / f"{name}.txt").write_text(caption)
    (folder / "d.txt").write_bytes(b"K\xe4se")
    Image.new("RGB", (9, 9)).save(folder / "e.png")
    return f"folder:{folder}", [str(folder / f"{name}.png") for name in "abcde"]


def write_images_in_table(folder):
    lines = [f"{name}.png,{text}" for name, text in UNUSABLE_CAPTIONS.items()]
    lines.append("d.png,another cat")
    (folder / "a.csv").write_text("\n".join(["image,caption", *lines]))
    return f"table:{folder / 'a.csv'}", [str(folder / f"{name}.png") for name in "abcd"]


def write_images_in_shard(folder):
    path = folder / "a.tar"
    members = {f"{name}.txt": text.encode() for name, text in UNUSABLE_CAPTIONS.items()}
    members |= {f"{name}.png": b"image" for name in "abcde"}
    write_members(path, sorted(members.items()))
    with tarfile.open(path) as tar:
        spans = [(m.offset_data, m.size) for m in tar if m.name.endswith(".png")]
    return f"webdataset:{path}", [
        member_location("bytes", span, str(path)) for span in spans
    ]


@pytest.mark.parametrize(
    "write", [write_images_in_folder, write_images_in_table, write_images_in_shard]
)
def test_evaluation_images_need_no_usable_caption(tmp_path, write):
    spec, locations = write(tmp_path)
    source, counter, images = evaluation_source(spec), DropCounter(), []
    for part in source.parts():
        images += [pair.image for pair in read_part(part, counter)]
    assert images == locations
    assert not counter.bad and not counter.filtered
    assert source.fingerprint() != open_source(spec).fingerprint()
