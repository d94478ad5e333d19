"""Tests of opening sources, dividing them into parts and extracting their pairs."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import pickle
import shutil
import tarfile

import pytest
from PIL import Image

from align_keras.config import load_corpus_config
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources import open_source, read_location, read_part
from align_keras.corpus.sources.extraction import (
    OTHER_RULE,
    PADDED,
    extract_part,
    merged_counts,
)
from align_keras.corpus.sources.location import member_location
from align_keras.corpus.sources.source import evaluation_source
from align_keras.runs.corpus_build import build_corpus
from align_keras.utils.errors import ImageError, InputError
from tests.helpers.source_reading import IMG2DATASET, read_source

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
def test_the_kind_is_recognized_by_the_suffix(tmp_path, name, kind):
    (tmp_path / name).touch()
    (tmp_path / "notes.md").touch()
    assert kind_of(tmp_path / name) == kind_of(tmp_path) == kind


def test_the_kind_of_shards_is_recognized():
    for kind in ("webdataset", "parquet", "tfrecord"):
        assert kind_of(IMG2DATASET / kind) == kind


def test_the_kind_of_a_json_file_is_recognized_by_its_content(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(CAPTIONS))
    assert kind_of(tmp_path / "a.json") == "coco"
    (tmp_path / "b.json").write_text(json.dumps({"images": [{"sentences": []}]}))
    assert kind_of(tmp_path / "b.json") == "karpathy"


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
        (["a.xyz"], "no known kind"),
        (["a.jpg", "b.txt"], "no known kind"),
        (["a.html", "b.csv"], "html and table"),
        (["a.tar", "b.parquet"], "parquet and webdataset"),
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
    "spec", ["", "html:", "html:/nowhere", "zip:/tmp", "ftp://e.org/a.warc", "tfds:x"]
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
    for number in range(450):
        path = tmp_path / f"{number % 7}/{number}.html"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    source = open_source(str(tmp_path))
    parts, fingerprint = source.parts(), source.fingerprint()
    assert [len(part.files) for part in parts] == [200, 200, 50]
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
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    [pair], _ = read_source(tmp_path)
    assert pair[1:5] == ("A cat", "caption", "?", "https://e.org/?")


def test_languages_are_in_lower_case(tmp_path):
    pytest.importorskip("selectolax")
    (tmp_path / "a.html").write_text("<p lang=' zh-Hant '><img src=a.png alt=x>")
    assert read_source(tmp_path)[0][0].language == "zh-hant"


def test_the_string_of_a_part_has_its_kind_and_range(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption\na.jpg,A cat\n")
    [part] = open_source(str(tmp_path)).parts()
    assert str(part) == f"table:{tmp_path}/a.csv[0:1]"


def test_file_names_are_only_dropped_from_crawled_captions(tmp_path):
    captions = ["../img/a_1.png", "A cat"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, caption in enumerate(captions):
            for suffix, content in ((".jpg", b"x"), (".txt", caption.encode())):
                member = tarfile.TarInfo(f"{number}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
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


pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def pages(tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    Image.new("RGB", (30, 20), "red").save(folder / "a.png")
    (folder / "bad.png").write_bytes(b"junk")
    (folder / "page.html").write_text(
        '<html lang="de"><img src="a.png" alt="ein rotes Bild"><img src="a.png" '
        'title="noch einmal"><img src="bad.png" alt="junk">'
        '<img src="https://example.org/far.jpg" alt="weit weg">'
    )
    return folder


def tasks_of(spec, out):
    """Returns the tasks of `extract_part` for the parts of a source."""
    source = open_source(spec)
    return [
        {
            "part": dataclasses.asdict(part),
            "source": source.name,
            "table": str(out / f"part-{number}.parquet"),
            "spool": str(out / "spool"),
        }
        for number, part in enumerate(source.parts())
    ]


def test_extracted_pairs_have_sizes_and_keys(pages, tmp_path):
    [task] = tasks_of(f"html:{pages}", tmp_path)
    counts = extract_part(task)
    assert counts["kept"] == 3 and counts["dropped"] == {"unreadable": 1}
    assert "bad.png" in counts["examples"]["unreadable"]
    rows = parquet.read_table(task["table"]).to_pylist()
    key = hashlib.blake2b((pages / "a.png").read_bytes(), digest_size=16).hexdigest()
    common = {
        "is_resized": False,
        "language": "de",
        "page_url": (pages / "page.html").as_uri(),
        "source": f"html:{pages}",
    }
    local_image = {
        "image": str(pages / "a.png"),
        "image_key": key,
        "width": 30,
        "height": 20,
    }
    url = "https://example.org/far.jpg"
    remote_image = {"image": url, "image_key": url, "width": 0, "height": 0}
    assert rows == [
        {**common, **local_image, "caption": "ein rotes Bild", "rule": "alt"},
        {**common, **local_image, "caption": "noch einmal", "rule": "title"},
        {**common, **remote_image, "caption": "weit weg", "rule": "alt"},
    ]


def test_captions_of_other_rules_are_filtered(pages, tmp_path):
    [task] = tasks_of(f"html:{pages}", tmp_path)
    counts = extract_part({**task, "caption_rules": ["alt"]})
    rows = parquet.read_table(task["table"]).to_pylist()
    assert [row["caption"] for row in rows] == ["ein rotes Bild", "weit weg"]
    assert counts["dropped"][OTHER_RULE] == 1 and OTHER_RULE in counts["filtered"]
    assert "title: noch einmal" in counts["examples"][OTHER_RULE]


def test_a_removed_file_raises_an_error_and_leaves_no_table(pages, tmp_path):
    [task] = tasks_of(f"html:{pages}", tmp_path)
    (pages / "page.html").rename(pages / "gone")
    with pytest.raises(InputError, match="1 of its files vanished.*page.html"):
        extract_part(task)
    assert not list(tmp_path.glob("*.parquet")) and not list(tmp_path.glob(".*"))


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
    members = {f"{name}.txt": text for name, text in UNUSABLE_CAPTIONS.items()}
    members |= {f"{name}.png": "image" for name in "abcde"}
    with tarfile.open(path, "w") as tar:
        for name, content in sorted(members.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
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


def test_the_counts_of_parts_are_added():
    first = {"kept": 3, "dropped": {"empty": 1}, "examples": {"empty": "a"}}
    second = {
        "kept": 4,
        "dropped": {"empty": 2, "not downloaded": 5},
        "filtered": ["not downloaded"],
        "examples": {"empty": "b", "not downloaded": "c"},
    }
    counts = [
        {"filtered": [], "converted": {}, **part} for part in (first, second, first)
    ]
    total = merged_counts(counts)
    assert total["kept"] == 10
    assert total["dropped"] == {"empty": 4, "not downloaded": 5}
    assert total["filtered"] == ["not downloaded"]
    assert total["examples"] == {"empty": "a", "not downloaded": "c"}
    assert merged_counts([])["kept"] == 0


SIZES = IMG2DATASET / "sizes"


def downloaded_rows():
    """Returns five images that img2dataset resized to 256 x 256 pixels by default."""
    return parquet.read_table(SIZES / "default.parquet").to_pylist()


def write_download(folder, kind, rows):
    """Writes rows in an output format of img2dataset and returns the specification."""
    shard = folder / "00000"
    shard.mkdir()
    for row in rows:
        metadata = {name: value for name, value in row.items() if name != "jpg"}
        stem = shard / row["key"]
        stem.with_suffix(".jpg").write_bytes(row["jpg"])
        stem.with_suffix(".txt").write_text(row["caption"])
        if "original_width" in row or kind == "webdataset":
            stem.with_suffix(".json").write_text(json.dumps(metadata))
    if kind == "webdataset":
        with tarfile.open(folder / "00000.tar", "w") as tar:
            for path in sorted(shard.iterdir()):
                tar.add(path, path.name)
        shutil.rmtree(shard)
    return f"{kind}:{folder}"


def filter_source(spec, out, **thresholds):
    """Builds a corpus up to the stage `filter`.

    Returns:
        Tuple of the counts of the stage `filter` and the notes of the stage `extract`.
    """
    config = load_corpus_config(
        params_override={
            "sources": [spec],
            "filter.min_unigrams": 1,
            **{f"filter.{name}": value for name, value in thresholds.items()},
        }
    )
    corpus = build_corpus(out, config, "filter", workers=1)
    counts = corpus.stages["filter"].facts["counts"]
    reasons = {reason: count for reason, count in counts.items() if count}
    return reasons, corpus.stages["extract"].facts["counts"].get("notes", {})


DROPPED = {"shorter side": 3, "aspect": 1}


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "folder"])
def test_original_sizes_are_used_after_the_default_resizing(tmp_path, kind):
    spec = f"parquet:{SIZES / 'default.parquet'}"
    if kind != "parquet":
        folder = tmp_path / "download"
        folder.mkdir()
        spec = write_download(folder, kind, downloaded_rows())
    counts, notes = filter_source(spec, tmp_path / "out")
    assert counts == DROPPED | {"kept": 1}
    # The logo is a square and needs no padding.
    assert notes == {PADDED: 4}


def test_original_sizes_are_used_without_resizing(tmp_path):
    spec = f"parquet:{SIZES / 'resize_mode_no.parquet'}"
    assert filter_source(spec, tmp_path / "out") == (DROPPED | {"kept": 1}, {})


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_equal_squares_without_original_sizes_have_an_unknown_size(tmp_path, kind):
    size_columns = {"width", "height", "original_width", "original_height"}
    rows = [
        {name: value for name, value in row.items() if name not in size_columns}
        for row in downloaded_rows()
    ]
    if kind == "webdataset":
        spec = write_download(tmp_path, kind, rows)
    else:
        path = tmp_path / "a.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        spec = f"parquet:{path}"
    counts, _ = filter_source(spec, tmp_path / "out")
    assert counts == {"unknown size": 5}
    counts, _ = filter_source(spec, tmp_path / "out", unknown_sizes="keep")
    assert counts == {"kept": 5}


def test_images_that_were_not_resized_have_the_size_of_their_file(tmp_path):
    # With `--disable_all_reencoding`, img2dataset writes columns without values.
    no_sizes = dict.fromkeys(("width", "height", "original_width", "original_height"))
    rows = [row | no_sizes for row in downloaded_rows()]
    counts, _ = filter_source(
        write_download(tmp_path, "webdataset", rows), tmp_path / "out"
    )
    assert counts == {"kept": 5}


def test_different_sizes_without_original_sizes_come_from_the_files(tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (320, 240)).save(image, "JPEG")
    rows = [
        {"key": row["key"], "caption": row["caption"], "jpg": row["jpg"]}
        for row in downloaded_rows()
    ]
    rows[3]["jpg"] = image.getvalue()
    counts, _ = filter_source(
        write_download(tmp_path, "webdataset", rows), tmp_path / "out"
    )
    assert counts == {"kept": 5}


def test_remote_images_have_the_size_in_the_log_of_img2dataset(tmp_path):
    rows = [
        {name: value for name, value in row.items() if name != "jpg"}
        for row in downloaded_rows()
    ]
    path = tmp_path / "log.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    counts, _ = filter_source(f"parquet:{path}", tmp_path / "out")
    assert counts == DROPPED | {"kept": 1}
