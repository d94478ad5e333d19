"""Tests of web archives with pages, images and other records."""

import io

import pytest

from align_keras.corpus.sources.location import read_location
from tests.helpers.source_case import SourceCase
from tests.helpers.source_reading import read_source

pytest.importorskip("warcio")
pytest.importorskip("selectolax")
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

SITE = "https://example.org/"
HTML = "text/html; charset=iso-8859-2"


def write(path, records, gzip=True):
    """Writes responses to a web archive.

    Args:
        path: path of the archive.
        records: list of tuples (address, media type, body, status) and optionally a
            list of more headers (name, value).
        gzip: bool, True to compress each record.

    Returns:
        list of int, the offsets of the records.
    """
    offsets = []
    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=gzip)
        writer.write_record(writer.create_warcinfo_record("a", {"software": "test"}))
        for url, media_type, body, status, *more_headers in records:
            offsets.append(file.tell())
            headers = [("Content-Type", media_type)] if media_type else []
            headers += more_headers[0] if more_headers else []
            record = writer.create_warc_record(
                url,
                "response",
                payload=io.BytesIO(body),
                http_headers=StatusAndHeaders(status, headers, protocol="HTTP/1.1"),
            )
            writer.write_record(record)
    return offsets


class TestWARC(SourceCase):
    kind = "warc"
    path = "a.warc.gz"
    pairs = [("A cat", "alt", "en"), ("A dog", "alt", "en"), ("A pet", "title", "en")]
    images = [b"cat", None, None]

    def write(self, folder):
        page = b"<html lang=en><img src=a.png alt='A cat'>"
        page += b"<img src=b.png alt='A dog' title='A pet'>"
        records = [
            (SITE + "p", "text/html", page, "200 OK"),
            (SITE + "a.png", "image/png", b"cat", "200 OK"),
        ]
        write(folder / "a.warc.gz", records)


PAGE = b"<html lang=cs><img src='/a b.png' alt='\xe8'><img src=/gone.png alt=x>"


@pytest.mark.parametrize("gzip", [False, True])
def test_pages_and_their_images_are_read(tmp_path, gzip):
    path = tmp_path / "strange #1,50%.warc"
    write(
        path,
        [
            (SITE + "p", HTML, PAGE, "200 OK"),
            (SITE + "a%20b.png", "image/png", b"image", "200 OK"),
            (SITE + "gone.png", "image/png", b"", "404 Not Found"),
            (SITE + "q", HTML, PAGE, "404 Not Found"),
            (SITE + "r", "application/json", PAGE, "200 OK"),
            (SITE + "s", None, PAGE, "200 OK"),
        ],
        gzip,
    )
    pairs, counter = read_source(path)
    assert [pair[1:5] for pair in pairs] == [
        ("č", "alt", "cs", SITE + "p"),
        ("x", "alt", "cs", SITE + "p"),
    ]
    assert read_location(pairs[0].image) == b"image"
    assert pairs[1].image == SITE + "gone.png"
    assert not counter.bad


def test_escaped_addresses_are_matched(tmp_path):
    page = "<img src='/Käse.png?a=1&amp;b=[2]#x' alt=x>".encode()
    write(
        tmp_path / "a.warc.gz",
        [
            (SITE + "p", "text/html;charset=utf-8", page, "200 OK"),
            (SITE + "K%C3%A4se.png?a=1&b=[2]", "image/png", b"image", "200 OK"),
        ],
    )
    [pair], _ = read_source(tmp_path)
    assert read_location(pair.image) == b"image"


@pytest.mark.parametrize(
    "headers, meta, is_opted_out",
    [
        ([("X-Robots-Tag", "noai, noimageai")], "", True),
        ([("x-robots-tag", "all"), ("X-ROBOTS-TAG", "NoIndex")], "", True),
        ([], "<meta name=robots content=noimageindex>", True),
        ([("X-Robots-Tag", "googlebot: noai")], "", False),
        ([("X-Robots-Tag", "nofollow")], "<meta name=robots content=none>", False),
    ],
)
def test_a_page_can_opt_out(tmp_path, headers, meta, is_opted_out):
    page = (meta + "<img src=a.png alt=x><img src=b.png alt=y>").encode()
    other = b"<img src=a.png alt=z>"
    write(
        tmp_path / "a.warc.gz",
        [
            (SITE + "p", "text/html", page, "200 OK", headers),
            (SITE + "q", "text/html", other, "200 OK"),
        ],
    )
    pairs, counter = read_source(tmp_path)
    assert [pair.caption for pair in pairs] == (["z"] if is_opted_out else list("xyz"))
    assert counter.filtered == ({"opted out": 2} if is_opted_out else {})
    assert not counter.bad
    pairs, counter = read_source(tmp_path, honor_opt_out=False)
    assert [pair.caption for pair in pairs] == list("xyz") and not counter.filtered


def test_an_image_can_opt_out(tmp_path):
    page = b"<img src=a.png alt=x><img src=b.png alt=y><img src=c.png alt=z>"
    opt_out = [("X-Robots-Tag", "noimageai")]
    other_robot = [("X-Robots-Tag", "ccbot: noai")]
    write(
        tmp_path / "a.warc.gz",
        [
            (SITE + "p", "text/html", page, "200 OK"),
            # The image was fetched twice. The second response opts out.
            (SITE + "a.png", "image/png", b"image", "200 OK"),
            (SITE + "a.png", "image/png", b"image", "200 OK", opt_out),
            (SITE + "b.png", "image/png", b"image", "200 OK", other_robot),
            (SITE + "c.png", "image/png", b"", "404 Not Found", opt_out),
        ],
    )
    pairs, counter = read_source(tmp_path)
    assert [pair.caption for pair in pairs] == ["y", "z"]
    assert counter.filtered == {"opted out": 1}
    assert "a.png" in counter.examples["opted out"]
    pairs, counter = read_source(tmp_path, honor_opt_out=False)
    assert [pair.caption for pair in pairs] == ["x", "y", "z"]
    assert read_location(pairs[0].image) == b"image"


def test_pages_cannot_use_files_of_this_machine(tmp_path):
    page = b"<img src=file:///etc/logo.png alt=x><img src=data:,x alt=y>"
    write(tmp_path / "a.warc.gz", [(SITE, "text/html", page, "200 OK")])
    pairs, counter = read_source(tmp_path)
    assert [pair.image for pair in pairs] == ["data:,x"]
    assert counter.bad == {"missing": 1}


@pytest.mark.parametrize("gzip", [False, True])
def test_damaged_and_truncated_records_are_counted(tmp_path, gzip):
    path = tmp_path / "a.warc"
    pages = [(f"{SITE}{number}", HTML, PAGE * 400, "200 OK") for number in range(4)]
    offsets = write(path, pages, gzip)
    content = bytearray(path.read_bytes())
    content[offsets[1] + 12 : offsets[1] + 52] = b"\xff" * 40
    path.write_bytes(content[:-100])
    pairs, counter = read_source(path)
    assert {pair.page_url for pair in pairs} == {SITE + "0", SITE + "2"}
    assert counter.bad == {"broken record": 1, "truncated shard": 1}
    assert str(path) in counter.examples["broken record"]
