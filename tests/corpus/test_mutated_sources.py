"""Tests of sources with damaged bytes, which are skipped, counted or refused.

By default each kind of source is damaged a few times. The release tests damage each
kind for up to a minute.
"""

import io
import itertools
import json
import os
import pathlib
import shutil

import pytest

from align_keras.corpus.sources import read_location
from align_keras.utils.errors import ImageError
from align_keras.utils.pillow_images import image_size
from tests.helpers.mutated import check_folder
from tests.helpers.source_reading import IMG2DATASET, read_source

PAGE = """<!doctype html><html lang=en><head><meta charset=utf-8><base href="img/">
<body><figure><a href="#x"><picture><source srcset="a.webp 1x, b.webp 2x">
<img src="a.png?w=3" alt="A cat &amp; a dog" title="Two pets"></picture></a>
<figcaption>Two <b>pets</b> on a mat<sup class=reference><a href="#1">1</a></sup>
</figcaption></figure><img data-src="data:image/gif;base64,R0lGODlhAQABAAAAACw="
alt=K&auml;se><noscript><img src="c.png" alt=K&auml;se></noscript>
<table><tr><td><img src="https://example.org/d%20e.jpg" alt="A &#x6728; tree" lang=de>
<svg><title>no</title></svg><template><img src=f.png alt=unseen></template>"""
RECORD = {
    "image": "a.png",
    "caption": "A cat",
    "id": "1",
    "rule": "alt",
    "language": "en",
    "page_url": "https://example.org/",
}


def write_html(folder):
    (folder / "a.html").write_text(PAGE)


def write_warc(folder):
    pytest.importorskip("warcio")
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    for name, gzip in (("a.warc", False), ("b.warc.gz", True)):
        with open(folder / name, "wb") as file:
            writer = WARCWriter(file, gzip=gzip)
            for url, kind, content in (
                ("https://example.org/a.html", "text/html; charset=utf-8", PAGE),
                ("https://example.org/img/a.png", "image/png", "\x89PNG"),
            ):
                headers = [("Content-Type", kind), ("Transfer-Encoding", "identity")]
                record = writer.create_warc_record(
                    url,
                    "response",
                    payload=io.BytesIO(content.encode()),
                    http_headers=StatusAndHeaders("200 OK", headers, "HTTP/1.1"),
                )
                writer.write_record(record)


def write_wat(folder):
    pytest.importorskip("warcio")
    from warcio.warcwriter import WARCWriter

    from tests.helpers.wat_records import envelope

    links = [
        {"path": "IMG@/src", "url": "b.png", "alt": 'A "cat"', "title": "Tom"},
        {"path": "A@/href", "url": "c.html"},
        {"path": "IMG@/src", "url": "//e.org/d.png", "alt": "木"},
    ]
    with open(folder / "a.wat", "wb") as file:
        writer = WARCWriter(file, gzip=False)
        for head in ({}, {"Base": "/other/"}):
            content = json.dumps(envelope(links, head)).encode()
            record = writer.create_warc_record(
                "https://example.org/", "metadata", payload=io.BytesIO(content)
            )
            writer.write_record(record)


def write_shard(name):
    return lambda folder: shutil.copy(IMG2DATASET / name, folder)


def write_csv(folder):
    lines = [",".join(RECORD), ",".join(RECORD.values())]
    lines += ['b.png,"A ""red"" cat,\nasleep",2,title,de,', "c.png,A dog,3,,,"]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")


def write_jsonl(folder):
    rows = [RECORD, {**RECORD, "id": 2, "caption": ["A cat", "Käse"]}]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_coco(folder):
    content = {
        "images": [{"id": 1, "file_name": "a.json", "flickr_url": "https://e.org/"}],
        "annotations": [{"id": 2, "image_id": 1, "caption": "A cat"}],
    }
    (folder / "a.json").write_text(json.dumps(content))


def write_karpathy(folder):
    sentences = [{"raw": "A cat"}, {"raw": "A red cat"}]
    image = {"filename": "a.json", "filepath": "", "split": "train"}
    content = {"images": [{**image, "sentences": sentences}]}
    (folder / "a.json").write_text(json.dumps(content))


# Kind → function that writes the source, number of damaged copies by default, and
# number of damaged copies in the release tests.
KINDS = {
    "html": (write_html, 50, 6_000),
    "warc": (write_warc, 30, 4_000),
    "wat": (write_wat, 30, 6_000),
    "webdataset": (write_shard("webdataset/00000.tar"), 30, 4_000),
    "tfrecord": (write_shard("tfrecord/00000.tfrecord"), 40, 6_000),
    "table.csv": (write_csv, 60, 6_000),
    "table.jsonl": (write_jsonl, 40, 10_000),
    "coco": (write_coco, 40, 4_000),
    "karpathy": (write_karpathy, 30, 4_000),
}
# Kinds whose records have checksums. No pair may be lost or changed without a count.
CHECKED_KINDS = ("tfrecord",)
# Kinds whose records have delimiters. A lost pair is counted unless the damage ends a
# line or the archive, which happens in less than one of 1,000 cases. In the other
# kinds, a damaged tag or cell looks like text.
DELIMITED_KINDS = ("tfrecord", "webdataset", "table.jsonl", "coco")


# Seconds since 1970. Readers cache a file by its modification time, and files that are
# written one after the other may have the same time.
MODIFICATION_TIMES = itertools.count(1_000_000_000)


def set_new_times(path):
    """Gives a file, or the files of a folder, a new modification time."""
    seconds = next(MODIFICATION_TIMES)
    for file in path.iterdir() if path.is_dir() else [path]:
        os.utime(file, (seconds, seconds))


def read_all(spec, expected_pairs, uncounted_losses=None):
    """Reads the pairs of a source and their images, and returns the pairs.

    Args:
        spec: str, specification of the source.
        expected_pairs: list of the pairs of the undamaged source, or None.
        uncounted_losses: list to which the pairs are appended if pairs are missing but
            none was counted, or None.
    """
    set_new_times(pathlib.Path(spec.partition(":")[2]))
    pairs, counter = read_source(spec)
    for pair in pairs:
        "".join(pair[:5]).encode()
        try:
            image_size(read_location(pair.image))
        except ImageError:
            pass
    expected_texts = set(pair[1:] for pair in expected_pairs or ())
    lost_texts = expected_texts - {pair[1:] for pair in pairs}
    if spec.partition(":")[0] in CHECKED_KINDS and expected_pairs is not None:
        assert set(pairs) <= set(expected_pairs)
        assert not lost_texts or counter.bad
    if (
        uncounted_losses is not None
        and len(pairs) < len(expected_pairs)
        and not counter.bad
    ):
        uncounted_losses.append(pairs)
    return pairs


def check(tmp_path, kind, count):
    """Writes a source and reads `count` damaged copies of it."""
    write = KINDS[kind][0] if kind in KINDS else write_shard("parquet/00000.parquet")
    write(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    source = f"{kind.partition('.')[0]}:{tmp_path}"
    if kind in ("coco", "karpathy"):
        source += f"/{names[0]}"
    expected_pairs = read_all(source, None)
    assert expected_pairs
    uncounted_losses = []
    read_count, refused_count = check_folder(
        tmp_path,
        names,
        lambda: read_all(source, expected_pairs, uncounted_losses),
        count,
    )
    assert read_count and read_count + refused_count == count
    assert len(uncounted_losses) <= count / 1000 or kind not in DELIMITED_KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_sources_are_read_or_refused(tmp_path, kind):
    pytest.importorskip("selectolax")
    check(tmp_path, kind, KINDS[kind][1])


@pytest.mark.release
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_sources_are_read_or_refused(tmp_path, kind):
    check(tmp_path, kind, KINDS[kind][2])


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(200, marks=pytest.mark.ci),
        pytest.param(5_000, marks=pytest.mark.release),
    ],
)
def test_damaged_parquet_files_are_read_or_refused(tmp_path, count):
    pytest.importorskip("pyarrow")
    check(tmp_path, "parquet", count)
