"""Bodies as a browser would have them, whatever encodings they travelled in."""

import gzip
import io
import time
import tracemalloc
import zlib

import pytest

from align_keras.corpus.picture import PictureError
from align_keras.corpus.sources import warc_responses
from align_keras.corpus.sources.warc_responses import (
    parse_record,
    read_response,
    response_body,
)

pytest.importorskip("warcio")
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter


def response(body, *headers):
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=False)
    headers = [("Server", "test"), *headers]
    http = StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1")
    record = writer.create_warc_record(
        "https://example.org/", "response", payload=io.BytesIO(body), http_headers=http
    )
    writer.write_record(record)
    return file.getvalue()


def body_of(content, **options):
    return response_body(parse_record(content), **options)


def test_encodings():
    assert body_of(response(b"cat")) == b"cat"
    packed = gzip.compress(b"cat")
    assert body_of(response(packed, ("Content-Encoding", "GZIP"))) == b"cat"
    packed = zlib.compress(b"cat")
    assert body_of(response(packed, ("Content-Encoding", "deflate"))) == b"cat"
    chunked = b"1\r\nc\r\n2\r\nat\r\n0\r\n\r\n"
    assert body_of(response(chunked, ("Transfer-Encoding", "chunked"))) == b"cat"
    brotli = pytest.importorskip("brotli")
    packed = brotli.compress(b"cat")
    assert body_of(response(packed, ("Content-Encoding", "br"))) == b"cat"
    assert body_of(response(b"<p>cat", ("Content-Encoding", "br"))) == b"<p>cat"
    bomb = response(brotli.compress(bytes(1_000_000)), ("Content-Encoding", "br"))
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        body_of(bomb, limit=1000)


def test_what_cannot_be_decoded_is_said():
    with pytest.raises(ValueError, match="content-encoding zstd"):
        body_of(response(b"x", ("Content-Encoding", "zstd")))
    bomb = gzip.compress(bytes(1_000_000))
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        body_of(response(bomb, ("Content-Encoding", "gzip")), limit=1000)
    assert len(body_of(response(bytes(1000)), limit=1000)) == 1000


def test_a_bomb_is_never_unpacked_whole():
    bomb = response(gzip.compress(bytes(200_000_000), 1), ("Content-Encoding", "gzip"))
    record = parse_record(bomb)
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        response_body(record, limit=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000_000


@pytest.mark.parametrize("content", [b"", b"junk", b"WARC/1.0\r\n"])
def test_no_record(content):
    with pytest.raises(ValueError):
        body = response_body(parse_record(content))
        raise AssertionError(body)


def test_reading_by_the_offset(tmp_path):
    path = tmp_path / "a.warc"
    first = response(b"cat")
    path.write_bytes(first + response(b"dog"))
    assert read_response(path, len(first)) == b"dog"
    for offset, reason in ((5, "unreadable"), (len(first) + 10**6, "unreadable")):
        with pytest.raises(PictureError) as caught:
            read_response(path, offset)
        assert caught.value.reason == reason
    path.write_bytes(first + response(b"dog")[:-9])
    with pytest.raises(PictureError) as caught:
        read_response(path, len(first))
    assert caught.value.reason == "truncated"


def test_long_headers_are_refused():
    many = [(f"a{number}", "b") for number in range(10_000)]
    with pytest.raises(ValueError, match="headers of more than 64,000 bytes"):
        parse_record(response(b"cat", *many))
    with pytest.raises(ValueError, match="headers of more than 64,000 bytes"):
        parse_record(response(b"cat", ("a", "b" + "\r\n c" * 20_000)))
    assert body_of(response(b"cat" * 100_000, ("a", "b" * 60_000))) == b"cat" * 100_000


def test_a_chunk_for_each_byte_takes_no_longer_than_allowed(monkeypatch):
    body = b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n"
    record = parse_record(response(body, ("Transfer-Encoding", "chunked")))
    monkeypatch.setattr(warc_responses, "_MAX_SECONDS", 0.1)
    begun = time.thread_time()
    with pytest.raises(ValueError, match="takes more than 0.1 seconds"):
        response_body(record)
    assert time.thread_time() - begun < 0.5
