"""Kinds are told or asked for, and parts are the same every time."""

import json
import os
import pathlib
import pickle
import shutil

import pytest
from source_reading import IMG2DATASET

from align_keras.corpus.sources import open_source
from align_keras.utils.errors import InputError

CAPTIONS = {"images": [], "annotations": [{"caption": "x"}]}


def kind_of(path):
    return open_source(str(path)).kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.HTML", "html"),
        ("a.warc", "warc"),
        ("a.warc.gz", "warc"),
        ("a.warc.wat.gz", "wat"),
        ("a.tar", "webdataset"),
        ("a.parquet", "parquet"),
        ("a.tfrecord", "tfrecord"),
        ("a.csv", "table"),
        ("a.jsonl", "table"),
    ],
)
def test_kinds_by_the_name(tmp_path, name, kind):
    (tmp_path / name).touch()
    (tmp_path / "notes.md").touch()
    assert kind_of(tmp_path / name) == kind_of(tmp_path) == kind


def test_kinds_by_what_lies_there(tmp_path):
    for kind in ("webdataset", "parquet", "tfrecord"):
        assert kind_of(IMG2DATASET / kind) == kind
    (tmp_path / "a.json").write_text(json.dumps(CAPTIONS))
    assert kind_of(tmp_path / "a.json") == "coco"
    (tmp_path / "b.json").write_text(json.dumps({"images": [{"sentences": []}]}))
    assert kind_of(tmp_path / "b.json") == "karpathy"
    # img2dataset's `files`: a log beside the folder of pictures.
    (tmp_path / "c/00000").mkdir(parents=True)
    for name in ("00000.parquet", "00000/1.jpg", "00000/1.txt", "00000/1.json"):
        (tmp_path / "c" / name).touch()
    assert kind_of(tmp_path / "c") == "folder"
    (tmp_path / "d").mkdir()
    for name in ("a.html", "a.png", "robots.txt"):
        (tmp_path / "d" / name).touch()
    assert kind_of(tmp_path / "d") == "html"


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "no kind"),
        (["a.xyz"], "no kind"),
        (["a.jpg", "b.txt"], "no kind"),
        (["a.html", "b.csv"], "html and table"),
        (["a.tar", "b.parquet"], "parquet and webdataset"),
        (["a.jpg", "a.txt", "b.html"], "folder and html"),
    ],
)
def test_what_cannot_be_told_is_asked_for(tmp_path, names, problem):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        open_source(str(tmp_path))
    message = str(caught.value)
    assert problem in message and "\n" not in message
    assert "html, warc, wat, webdataset, parquet, tfrecord, coco" in message
    if names:
        (tmp_path / "a.html").touch()
        assert open_source(f"html:{tmp_path}").kind == "html"


@pytest.mark.parametrize(
    "spec", ["", "html:", "html:/nowhere", "zip:/tmp", "https://e.org/a.warc", "tfds:x"]
)
def test_specs_that_name_nothing(spec):
    with pytest.raises(InputError) as caught:
        open_source(spec)
    assert repr(spec) in str(caught.value)


def test_a_given_kind_without_files(tmp_path):
    source = open_source(f"warc:{tmp_path}")
    with pytest.raises(InputError, match=r"\.warc, \.warc\.gz"):
        source.parts()


def test_a_source_that_vanishes_before_it_is_listed(tmp_path):
    path = tmp_path / "a.html"
    path.touch()
    source = open_source(str(path))
    path.unlink()
    for own in (source.parts, source.fingerprint):
        with pytest.raises(InputError, match="there is no"):
            own()


def test_relative_and_strange_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a b#%,木.html", "html:x", "a?images=b.html"):
        pathlib.Path(name).mkdir()
        pathlib.Path(name, "a.html").touch()
        source = open_source(f"html:{name}")
        assert source.path == str(tmp_path / name)
        [part] = source.parts()
        assert (part.root, part.files) == (str(tmp_path / name), ("a.html",))


def test_parts_and_fingerprints_are_the_same_for_the_same_files(tmp_path, monkeypatch):
    for own in range(450):
        path = tmp_path / f"{own % 7}/{own}.html"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    source = open_source(str(tmp_path))
    parts, mark = source.parts(), source.fingerprint()
    assert [len(part.files) for part in parts] == [200, 200, 50]
    assert parts == sorted(parts)
    assert pickle.loads(pickle.dumps(parts)) == parts
    # In whatever order the system lists them.
    walk = os.walk
    monkeypatch.setattr(
        os, "walk", lambda top: [(p, s, n[::-1]) for p, s, n in [*walk(top)][::-1]]
    )
    assert source.parts() == parts and source.fingerprint() == mark
    monkeypatch.undo()
    (tmp_path / "0/new.html").touch()
    assert source.fingerprint() != mark
    copy = tmp_path / "copy"
    shutil.copytree(IMG2DATASET / "webdataset", copy)
    # Pictures would be elsewhere.
    other = open_source(f"webdataset:{IMG2DATASET / 'webdataset'}").fingerprint()
    assert open_source(f"webdataset:{copy}").fingerprint() != other
