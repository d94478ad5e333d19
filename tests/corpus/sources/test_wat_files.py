"""Records in the form of Common Crawl's WAT files."""

import io
import json

import pytest

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


def test_pictures_of_a_page(tmp_path):
    links = [
        {"path": "A@/href", "url": "b.html", "text": "no picture"},
        {"path": "IMG@/src", "url": "b.png", "alt": 'A "cat" & <b>'},
        {"path": "IMG@/src", "url": "//o.org/c.png?x=1&y=2", "title": "木", "alt": "x"},
        {"path": "IMG@/src", "url": "d.png"},
        {"path": "IMG@/src", "alt": "nowhere"},
        {"path": "IMG@/src", "url": "file:///etc/e.png", "alt": "private"},
    ]
    path = tmp_path / "CC.warc.wat.gz"
    write(path, [envelope(links), envelope(links[1:2], {"Base": "/other/"})])
    pairs, counter = read_source(path)
    other = "https://o.org/c.png?x=1&y=2"
    assert [pair[:5] for pair in pairs] == [
        ("https://example.org/a/b.png", 'A "cat" & <b>', "alt", "", PAGE),
        (other, "x", "alt", "", PAGE),
        (other, "木", "title", "", PAGE),
        ("https://example.org/other/b.png", 'A "cat" & <b>', "alt", "", PAGE),
    ]
    assert not counter.bad


def test_records_of_other_forms(tmp_path):
    good = envelope([{"path": "IMG@/src", "url": "b.png", "alt": "A cat"}])
    empty = envelope(None)
    empty["Envelope"]["Payload-Metadata"] = {"HTTP-Request-Metadata": {}}
    broken = [
        b"{",
        b"[]",
        b"{}",
        envelope([3]),
        envelope([{"path": "IMG@/src", "url": 3}]),
    ]
    write(tmp_path / "a.wat.gz", [empty, *broken, good])
    pairs, counter = read_source(tmp_path)
    assert [pair.caption for pair in pairs] == ["A cat"]
    assert counter.bad == {"broken record": 5}


def test_cut_and_empty_files(tmp_path):
    write(tmp_path / "a.wat.gz", [envelope([])])
    content = (tmp_path / "a.wat.gz").read_bytes()
    (tmp_path / "a.wat.gz").write_bytes(content[:-20])
    (tmp_path / "b.wat").touch()
    _, counter = read_source(tmp_path)
    assert counter.bad == {"truncated shard": 1, "empty shard": 1}


def test_a_record_of_more_than_a_page_has_is_passed_over(tmp_path):
    good = envelope([{"path": "IMG@/src", "url": "b.png", "alt": "A cat"}])
    write(tmp_path / "a.wat.gz", [b"[" + b"0," * 4_500_000, good])
    pairs, counter = read_source(tmp_path)
    assert [pair.caption for pair in pairs] == ["A cat"]
    assert counter.bad == {"oversized record": 1}
