"""Records come out as warcio wrote them, also from between broken ones."""

import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_keras.corpus.sources.warc_records import iterate_records, read_record

pytest.importorskip("warcio")
from warcio.archiveiterator import ArchiveIterator
from warcio.warcwriter import WARCWriter


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
    own = read_record(path, offsets[2])
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
