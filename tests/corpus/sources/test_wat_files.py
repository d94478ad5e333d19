"""Tests of WAT files, the metadata of web pages from Common Crawl."""

import io
import json

import pytest

from tests.helpers.source_case import SourceCase
from tests.helpers.source_reading import read_source

pytest.importorskip("warcio")
pytest.importorskip("selectolax")
from warcio.warcwriter import WARCWriter

from tests.helpers.wat_records import PAGE, envelope


def write(path, payloads):
    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=True)
        writer.write_record(writer.create_warcinfo_record("a", {"software": "test"}))
        for payload in payloads:
            if isinstance(payload, dict):
                payload = json.dumps(payload).encode()
            record = writer.create_warc_record(
                PAGE,
                "metadata",
                payload=io.BytesIO(payload),
                warc_content_type="application/json",
            )
            writer.write_record(record)


class TestWAT(SourceCase):
    kind = "wat"
    path = "a.wat.gz"
    pairs = [("A cat", "alt", ""), ("A dog", "title", "")]
    images = [None, None]

    def write(self, folder):
        links = [
            {"path": "IMG@/src", "url": "a.png", "alt": "A cat"},
            {"path": "IMG@/src", "url": "b.png", "title": "A dog"},
        ]
        write(folder / "a.wat.gz", [envelope(links)])


def test_the_images_of_a_page_give_pairs(tmp_path):
    links = [
        {"path": "A@/href", "url": "b.html", "text": "no image"},
        {"path": "IMG@/src", "url": "b.png", "alt": 'A "cat" & <b>'},
        {"path": "IMG@/src", "url": "//o.org/c.png?x=1&y=2", "title": "木", "alt": "x"},
        {"path": "IMG@/src", "url": "d.png"},
        {"path": "IMG@/src", "alt": "nowhere"},
        {"path": "IMG@/src", "url": "file:///etc/e.png", "alt": "private"},
    ]
    path = tmp_path / "CC.warc.wat.gz"
    write(path, [envelope(links), envelope(links[1:2], {"Base": "/other/"})])
    pairs, counter = read_source(path)
    second_image = "https://o.org/c.png?x=1&y=2"
    assert [pair[:5] for pair in pairs] == [
        ("https://example.org/a/b.png", 'A "cat" & <b>', "alt", "", PAGE),
        (second_image, "x", "alt", "", PAGE),
        (second_image, "木", "title", "", PAGE),
        ("https://example.org/other/b.png", 'A "cat" & <b>', "alt", "", PAGE),
    ]
    assert not counter.bad


@pytest.mark.parametrize(
    "headers, metas, is_opted_out",
    [
        ({"X-Robots-Tag": "noai"}, None, True),
        ({"x-robots-tag": ["all", "noindex"]}, [], True),
        ({}, [{"name": "ROBOTS", "content": "noimageai, nofollow"}], True),
        ({"X-Robots-Tag": "googlebot: noai"}, None, False),
        ({"X-Robots-Tag": "nofollow"}, None, False),
    ],
)
def test_a_page_can_opt_out(tmp_path, headers, metas, is_opted_out):
    links = [
        {"path": "IMG@/src", "url": "b.png", "alt": "A cat", "title": "A pet"},
        {"path": "IMG@/src", "url": "file:///etc/e.png", "alt": "private"},
    ]
    record = envelope(links, {"Metas": metas})
    payload = record["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]
    payload["Headers"] = headers
    write(tmp_path / "a.wat.gz", [record])
    pairs, counter = read_source(tmp_path)
    captions = ["A cat", "A pet"]
    assert [pair.caption for pair in pairs] == ([] if is_opted_out else captions)
    assert counter.filtered["opted out"] >= (2 if is_opted_out else 0)
    assert is_opted_out or not counter.filtered
    assert not counter.bad
    pairs, counter = read_source(tmp_path, honor_opt_out=False)
    assert [pair.caption for pair in pairs] == captions and not counter.filtered


def test_records_of_another_structure_are_counted(tmp_path):
    good = envelope([{"path": "IMG@/src", "url": "b.png", "alt": "A cat"}])
    empty = envelope(None)
    empty["Envelope"]["Payload-Metadata"] = {"HTTP-Request-Metadata": {}}
    damaged = [
        b"{",
        b"[]",
        b"{}",
        envelope([3]),
        envelope([{"path": "IMG@/src", "url": 3}]),
    ]
    write(tmp_path / "a.wat.gz", [empty, *damaged, good])
    pairs, counter = read_source(tmp_path)
    assert [pair.caption for pair in pairs] == ["A cat"]
    assert counter.bad == {"broken record": 5}


def test_truncated_and_empty_files_are_counted(tmp_path):
    write(tmp_path / "a.wat.gz", [envelope([])])
    content = (tmp_path / "a.wat.gz").read_bytes()
    (tmp_path / "a.wat.gz").write_bytes(content[:-20])
    (tmp_path / "b.wat").touch()
    _, counter = read_source(tmp_path)
    assert counter.bad == {"truncated shard": 1, "empty shard": 1}


def test_an_oversized_record_is_skipped(tmp_path):
    good = envelope([{"path": "IMG@/src", "url": "b.png", "alt": "A cat"}])
    write(tmp_path / "a.wat.gz", [b"[" + b"0," * 4_500_000, good])
    pairs, counter = read_source(tmp_path)
    assert [pair.caption for pair in pairs] == ["A cat"]
    assert counter.bad == {"oversized record": 1}
