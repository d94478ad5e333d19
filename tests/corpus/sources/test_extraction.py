"""Tests of the extraction of pairs to tables, with the sizes of their images."""

import dataclasses
import hashlib
import io
import json
import shutil
import tarfile

import pytest
from PIL import Image

from align_keras.config import load_corpus_config
from align_keras.corpus.sources.extraction import (
    OTHER_RULE,
    PADDED,
    extract_part,
    merged_counts,
)
from align_keras.corpus.sources.source import open_source
from align_keras.runs.corpus_build import build_corpus
from align_keras.utils.errors import InputError
from tests.helpers.source_reading import IMG2DATASET

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
    with pytest.raises(InputError, match="page.html"):
        extract_part(task)
    assert not list(tmp_path.glob("*.parquet")) and not list(tmp_path.glob(".*"))


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


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
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


def test_equal_squares_without_original_sizes_have_an_unknown_size(tmp_path):
    size_columns = {"width", "height", "original_width", "original_height"}
    rows = [
        {name: value for name, value in row.items() if name not in size_columns}
        for row in downloaded_rows()
    ]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    counts, _ = filter_source(f"parquet:{path}", tmp_path / "out")
    assert counts == {"unknown size": 5}


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
