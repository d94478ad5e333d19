"""Tests of reading the records of WARC files, complete and damaged."""

import gzip
import io
import itertools
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("warcio")
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from align_keras.corpus.sources import warc_records
from align_keras.corpus.sources.warc_records import (
    iterate_records,
    parse_record,
    read_response,
    read_warc_record,
    response_body,
)
from align_keras.utils.errors import ImageError


def archive(contents, gzip):
    """Returns the bytes of an archive, and the offsets of its records from warcio."""
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=gzip)
    for number, content in enumerate(contents):
        record = writer.create_warc_record(
            f"https://example.org/{number}", "resource", payload=io.BytesIO(content)
        )
        writer.write_record(record)
    records = ArchiveIterator(io.BytesIO(file.getvalue()))
    return file.getvalue(), [records.get_record_offset() for _ in records]


def read_records(path, **options):
    """Returns (offset, content without the header, or the drop reason) per record."""
    return [
        (
            record.offset,
            record.content.partition(b"\r\n\r\n")[2]
            if record.content
            else record.fault,
        )
        for record in iterate_records(path, **options)
    ]


def read_contents(path):
    return [content for _, content in read_records(path)]


CONTENTS = [
    b"cat" * 9,
    b"",
    b"\r\n\r\nWARC/1.0\r\nContent-Length: 3\r\n\r\n",
    b"\0" * 5,
]


@pytest.mark.parametrize("gzip", [False, True])
def test_all_records_of_a_complete_file_are_read(tmp_path, gzip):
    content, offsets = archive(CONTENTS, gzip)
    path = tmp_path / "a"
    path.write_bytes(content + b"\r\n" * 9 + b"\0" * 100_000)
    assert read_records(path) == list(zip(offsets, CONTENTS, strict=True))
    record = read_warc_record(path, offsets[2])
    assert record.content.endswith(CONTENTS[2])


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("junk", [b"\n", b"\x1f\x8b\x08junk\n"])
def test_other_bytes_between_records_drop_no_record(tmp_path, gzip, junk):
    content, offsets = archive([b"cat", b"dog"], gzip)
    path = tmp_path / "a"
    path.write_bytes(content[: offsets[1]] + junk + content[offsets[1] :])
    expected = [b"cat", *["broken record"] * (junk != b"\n"), b"dog"]
    assert read_contents(path) == expected


@pytest.mark.parametrize("gzip", [False, True])
def test_a_record_at_the_boundary_of_two_chunks_is_found(tmp_path, gzip):
    content, _ = archive([b"dog"], gzip)
    path = tmp_path / "a"
    for size in range((1 << 16) - 9, (1 << 16) + 9):
        path.write_bytes(b"x" * size + b"\n" + content)
        assert read_contents(path) == ["broken record", b"dog"]


@pytest.mark.parametrize("gzip", [False, True])
def test_only_a_damaged_record_is_dropped(tmp_path, gzip):
    contents = [bytes([65 + number]) * 200_000 for number in range(3)]
    content, offsets = archive(contents, gzip)
    path = tmp_path / "a"
    if gzip:
        middle = offsets[1] + 200
        damaged = content[:middle] + b"\xff" * 9 + content[middle + 9 :]
    else:
        start = content.index(b"Content-Length", offsets[1])
        damaged = content[:start] + b"Content-Length: 123456" + content[start + 22 :]
    path.write_bytes(damaged)
    assert read_contents(path) == [contents[0], "broken record", contents[2]]


def test_a_length_of_thousands_of_digits_is_a_broken_record(tmp_path):
    content, offsets = archive([b"cat" * 20, b"dog" * 20], False)
    start = content.index(b"Content-Length", offsets[0])
    end = content.index(b"\r\n", start)
    length = b"Content-Length: " + b"9" * 5000
    path = tmp_path / "a"
    path.write_bytes(content[:start] + length + content[end:])
    assert read_contents(path) == ["broken record", b"dog" * 20]


@pytest.mark.parametrize("gzip", [False, True])
def test_a_truncated_file_has_the_records_before_its_end(tmp_path, gzip):
    content, offsets = archive([b"cat" * 20, b"dog" * 20], gzip)
    path = tmp_path / "a"
    for size in range(1, len(content) - 4, 5):
        path.write_bytes(content[:size])
        contents = read_contents(path)
        assert len(contents) <= 2
        if size > offsets[1]:
            assert contents[0] == b"cat" * 20
            assert len(contents) == 1 or contents[1] in (
                "truncated shard",
                "broken record",
                b"dog" * 20,
            )


@pytest.mark.parametrize("gzip", [False, True])
def test_oversized_records_are_dropped(tmp_path, gzip):
    content, offsets = archive([b"x" * 5000, b"dog"], gzip)
    path = tmp_path / "a"
    path.write_bytes(content)
    records = read_records(path, limit=1000)
    assert records == [(0, "oversized record"), (offsets[1], b"dog")]


def test_the_error_for_several_records_in_a_gzip_member_has_the_remedy(tmp_path):
    content, _ = archive([b"cat", b"dog"], gzip=False)
    compressor = zlib.compressobj(wbits=31)
    path = tmp_path / "a"
    path.write_bytes(compressor.compress(content) + compressor.flush())
    [record] = iterate_records(path)
    assert record.fault == "broken record" and "warcio recompress" in record.detail


@given(st.binary(max_size=300), st.integers(0, 2000))
def test_a_file_with_inserted_noise_is_read_to_its_end(
    tmp_path_factory, noise, position
):
    path = tmp_path_factory.mktemp("noise") / "a"
    content, _ = archive([b"cat", b"dog"], gzip=True)
    position = min(position, len(content))
    path.write_bytes(content[:position] + noise + content[position:])
    offsets = [record.offset for record in iterate_records(path)]
    assert offsets == sorted(set(offsets))


def response(body, *headers):
    """Returns the bytes of the record of a response."""
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


def test_compressed_and_chunked_bodies_are_decoded():
    assert body_of(response(b"cat")) == b"cat"
    compressed = gzip.compress(b"cat")
    assert body_of(response(compressed, ("Content-Encoding", "GZIP"))) == b"cat"
    compressed = zlib.compress(b"cat")
    assert body_of(response(compressed, ("Content-Encoding", "deflate"))) == b"cat"
    chunked = b"1\r\nc\r\n2\r\nat\r\n0\r\n\r\n"
    assert body_of(response(chunked, ("Transfer-Encoding", "chunked"))) == b"cat"


def test_brotli_is_decompressed():
    brotli = pytest.importorskip("brotli")
    compressed = brotli.compress(b"cat")
    assert body_of(response(compressed, ("Content-Encoding", "br"))) == b"cat"
    assert body_of(response(b"<p>cat", ("Content-Encoding", "br"))) == b"<p>cat"
    bomb = response(brotli.compress(bytes(1_000_000)), ("Content-Encoding", "br"))
    with pytest.raises(ValueError, match="1,000"):
        body_of(bomb, limit=1000)


def test_unknown_encodings_and_long_bodies_raise_an_error():
    with pytest.raises(ValueError, match="zstd"):
        body_of(response(b"x", ("Content-Encoding", "zstd")))
    bomb = gzip.compress(bytes(1_000_000))
    with pytest.raises(ValueError, match="1,000"):
        body_of(response(bomb, ("Content-Encoding", "gzip")), limit=1000)
    assert len(body_of(response(bytes(1000)), limit=1000)) == 1000


def test_a_long_body_is_not_decompressed_completely():
    bomb = response(gzip.compress(bytes(50_000_000), 1), ("Content-Encoding", "gzip"))
    record = parse_record(bomb)
    tracemalloc.start()
    with pytest.raises(ValueError, match="1,000"):
        response_body(record, limit=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25_000_000


@pytest.mark.parametrize("content", [b"", b"junk", b"WARC/1.0\r\n"])
def test_invalid_records_raise_an_error(content):
    with pytest.raises(ValueError):
        body_of(content)


def test_a_response_is_read_at_its_offset(tmp_path):
    path = tmp_path / "a.warc"
    first = response(b"cat")
    path.write_bytes(first + response(b"dog"))
    assert read_response(path, len(first)) == b"dog"
    for offset, reason in ((5, "unreadable"), (len(first) + 10**6, "unreadable")):
        with pytest.raises(ImageError) as error_info:
            read_response(path, offset)
        assert error_info.value.reason == reason
    path.write_bytes(first + response(b"dog")[:-9])
    with pytest.raises(ImageError) as error_info:
        read_response(path, len(first))
    assert error_info.value.reason == "truncated"


def test_long_headers_raise_an_error():
    headers = [(f"a{number}", "b") for number in range(10_000)]
    with pytest.raises(ValueError, match="64,000"):
        parse_record(response(b"cat", *headers))
    with pytest.raises(ValueError, match="64,000"):
        parse_record(response(b"cat", ("a", "b" + "\r\n c" * 20_000)))
    assert body_of(response(b"cat" * 100_000, ("a", "b" * 60_000))) == b"cat" * 100_000


def test_reading_a_chunk_for_each_byte_has_a_time_limit(monkeypatch):
    body = b"1\r\nx\r\n" * 3_000 + b"0\r\n\r\n"
    record = parse_record(response(body, ("Transfer-Encoding", "chunked")))
    monkeypatch.setattr(warc_records, "_CHUNK", 1_000)
    clock = itertools.count(step=3)  # Three seconds pass between two calls.
    monkeypatch.setattr(warc_records.time, "thread_time", lambda: next(clock))
    with pytest.raises(ValueError, match="seconds"):
        response_body(record)
    assert next(clock) == 9
