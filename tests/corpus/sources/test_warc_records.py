"""Records come out as warcio wrote them, also from between broken ones."""

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

from align_keras.corpus.image import ImageError
from align_keras.corpus.sources import warc_records
from align_keras.corpus.sources.warc_records import (
    iterate_records,
    parse_record,
    read_response,
    read_warc_record,
    response_body,
)


def archive(contents, gzip):
    """Returns an archive's bytes and where each record begins, by warcio's count."""
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=gzip)
    for number, content in enumerate(contents):
        record = writer.create_warc_record(
            f"https://example.org/{number}", "resource", payload=io.BytesIO(content)
        )
        writer.write_record(record)
    records = ArchiveIterator(io.BytesIO(file.getvalue()))
    return file.getvalue(), [records.get_record_offset() for _ in records]


def found(path, **options):
    return [
        (
            own.offset,
            own.content.partition(b"\r\n\r\n")[2] if own.content else own.fault,
        )
        for own in iterate_records(path, **options)
    ]


CONTENTS = [
    b"cat" * 9,
    b"",
    b"\r\n\r\nWARC/1.0\r\nContent-Length: 3\r\n\r\n",
    b"\0" * 5,
]


@pytest.mark.parametrize("gzip", [False, True])
def test_all_records_of_a_sound_file(tmp_path, gzip):
    content, offsets = archive(CONTENTS, gzip)
    path = tmp_path / "a"
    path.write_bytes(content + b"\r\n" * 9 + b"\0" * 100_000)
    assert found(path) == list(zip(offsets, CONTENTS, strict=True))
    own = read_warc_record(path, offsets[2])
    assert own.content.endswith(CONTENTS[2])


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("junk", [b"\n", b"junk\n", b"\x1f\x8b\x08junk\n"])
def test_junk_between_records_costs_none(tmp_path, gzip, junk):
    content, offsets = archive([b"cat", b"dog"], gzip)
    path = tmp_path / "a"
    path.write_bytes(content[: offsets[1]] + junk + content[offsets[1] :])
    texts = [text for _, text in found(path)]
    assert texts == [b"cat", *["broken record"] * (junk != b"\n"), b"dog"]


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("size", range((1 << 16) - 9, (1 << 16) + 9))
def test_the_next_record_is_found_over_the_edge_of_a_block(tmp_path, gzip, size):
    content, _ = archive([b"dog"], gzip)
    path = tmp_path / "a"
    path.write_bytes(b"x" * size + b"\n" + content)
    assert [text for _, text in found(path)] == ["broken record", b"dog"]


@pytest.mark.parametrize("gzip", [False, True])
def test_a_broken_record_costs_itself_alone(tmp_path, gzip):
    contents = [bytes([65 + own]) * 200_000 for own in range(3)]
    content, offsets = archive(contents, gzip)
    path = tmp_path / "a"
    if gzip:
        middle = offsets[1] + 200
        broken = content[:middle] + b"\xff" * 9 + content[middle + 9 :]
    else:
        at = content.index(b"Content-Length", offsets[1])
        broken = content[:at] + b"Content-Length: 123456" + content[at + 22 :]
    path.write_bytes(broken)
    texts = [text for _, text in found(path)]
    assert texts == [contents[0], "broken record", contents[2]]


def test_a_length_of_thousands_of_digits_is_a_broken_record(tmp_path):
    content, offsets = archive([b"cat" * 20, b"dog" * 20], False)
    at = content.index(b"Content-Length", offsets[0])
    end = content.index(b"\r\n", at)
    path = tmp_path / "a"
    path.write_bytes(content[:at] + b"Content-Length: " + b"9" * 5000 + content[end:])
    assert [text for _, text in found(path)] == ["broken record", b"dog" * 20]


@pytest.mark.parametrize("gzip", [False, True])
def test_every_cut_loses_only_what_is_cut(tmp_path, gzip):
    content, offsets = archive([b"cat" * 20, b"dog" * 20], gzip)
    path = tmp_path / "a"
    for size in range(1, len(content) - 4):
        path.write_bytes(content[:size])
        texts = [text for _, text in found(path)]
        assert len(texts) <= 2
        if size > offsets[1]:
            assert texts[0] == b"cat" * 20
            assert texts[1:] in (["truncated shard"], ["broken record"], [b"dog" * 20])
    path.write_bytes(b"")
    assert found(path) == []


@pytest.mark.parametrize("gzip", [False, True])
def test_oversized_records_are_passed_over(tmp_path, gzip):
    content, offsets = archive([b"x" * 5000, b"dog"], gzip)
    path = tmp_path / "a"
    path.write_bytes(content)
    assert found(path, limit=1000) == [(0, "oversized record"), (offsets[1], b"dog")]


def test_one_gzip_member_for_all_names_the_remedy(tmp_path):
    content, _ = archive([b"cat", b"dog"], gzip=False)
    packer = zlib.compressobj(wbits=31)
    path = tmp_path / "a"
    path.write_bytes(packer.compress(content) + packer.flush())
    [own] = iterate_records(path)
    assert own.fault == "broken record" and "warcio recompress" in own.detail


@given(st.binary(max_size=300), st.integers(0, 2000))
def test_noise_ends(tmp_path_factory, noise, at):
    path = tmp_path_factory.mktemp("noise") / "a"
    content, _ = archive([b"cat", b"dog"], gzip=True)
    at = min(at, len(content))
    path.write_bytes(content[:at] + noise + content[at:])
    offsets = [own.offset for own in iterate_records(path)]
    assert offsets == sorted(set(offsets))


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
        with pytest.raises(ImageError) as caught:
            read_response(path, offset)
        assert caught.value.reason == reason
    path.write_bytes(first + response(b"dog")[:-9])
    with pytest.raises(ImageError) as caught:
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
    clock = itertools.count(step=3)  # Three seconds pass with each look at the clock.
    monkeypatch.setattr(warc_records.time, "thread_time", lambda: next(clock))
    with pytest.raises(ValueError, match="takes more than 4 seconds"):
        response_body(record)
    assert next(clock) == 9
