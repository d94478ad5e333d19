"""The records of a WARC file, one by one, past those that are broken, where warcio and
FastWARC stop (the latter takes a third of the time, but parsing pages takes more). They
are cut out first, by gzip members or declared lengths; each is given to warcio.
"""

import io
import re
import time
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.image import ImageError
from align_keras.corpus.sources.source_files import MAX_HEADER_BYTES, MAX_WARC_BYTES
from align_keras.utils.errors import InputError, needs
from align_keras.utils.files import open_regular

_CHUNK = 1 << 16
_GZIP = b"\x1f\x8b\x08"
_WARC = b"WARC/"
_START = re.compile(rb"(?<=\n)WARC/\d\.|\x1f\x8b\x08")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"^content-length:\s*(\d{1,18})\s*$", re.I | re.M)
# Between records and behind the last one, also of files that are cut to blocks.
_BLANK = b"\r\n\0"
_HAS_HTTP = re.compile(rb"^WARC-Type:\s*(?:response|request|revisit)", re.I | re.M)
_MAX_SECONDS = 4


class WarcRecord(NamedTuple):
    """One record from byte `offset` on, uncompressed; None with a `fault`."""

    offset: int
    content: bytes | None
    fault: str | None = None
    detail: str = ""


def iterate_records(path: str, limit: int = MAX_WARC_BYTES) -> Iterator[WarcRecord]:
    """Yields the records of a WARC file, plain or gzipped one by one."""
    with open_regular(path) as file:
        offset = _skip_blank(file, 0)
        while offset is not None:
            record, offset = _cut(file, offset, limit)
            yield record
            offset = _skip_blank(file, offset)


def read_warc_record(path: str, offset: int, limit: int = MAX_WARC_BYTES) -> WarcRecord:
    """Returns the record that begins at an offset of a WARC file."""
    with open_regular(path) as file:
        return _cut(file, offset, limit)[0]


def _skip_blank(file: IO[bytes], offset: int) -> int | None:
    """Returns where something stands, from an offset on; None where nothing does."""
    file.seek(offset)
    while chunk := file.read(_CHUNK):
        length = len(chunk.lstrip(_BLANK))
        if length:
            return offset + len(chunk) - length
        offset += len(chunk)
    return None


def _cut(file: IO[bytes], offset: int, limit: int) -> tuple[WarcRecord, int]:
    """Returns the `WarcRecord` at an offset, and where to go on."""
    file.seek(offset)
    start = file.read(_CHUNK)
    if start.startswith(_GZIP):
        return _cut_member(file, offset, limit)
    if start.startswith(_WARC):
        return _cut_plain(file, offset, limit, start)
    return _broken(file, offset, "no record begins here")


def _broken(file: IO[bytes], offset: int, detail: str) -> tuple[WarcRecord, int]:
    fault = WarcRecord(offset, None, "broken record", f"byte {offset}: {detail}")
    return fault, _next_start(file, offset)


def _truncated(offset: int, end: int) -> tuple[WarcRecord, int]:
    detail = f"the record at byte {offset} has no end"
    return WarcRecord(offset, None, "truncated shard", detail), end


def _oversized(offset: int, limit: int, end: int) -> tuple[WarcRecord, int]:
    detail = f"byte {offset}: more than {limit:,} bytes"
    return WarcRecord(offset, None, "oversized record", detail), end


def _cut_member(file: IO[bytes], offset: int, limit: int) -> tuple[WarcRecord, int]:
    decompressor, pieces, size = zlib.decompressobj(31), [], 0
    file.seek(offset)
    while not decompressor.eof:
        chunk = file.read(_CHUNK)
        if not chunk:
            return _truncated(offset, file.tell())
        try:
            piece = decompressor.decompress(chunk)
        except zlib.error as error:
            return _broken(file, offset, str(error))
        pieces.append(piece[: max(limit - size, 0)])  # The header at least.
        size += len(piece)
    end = file.tell() - len(decompressor.unused_data)
    content = b"".join(pieces)
    length = _declared_length(content)
    if length is None or length > size:
        return _broken(file, offset, "no record, or one of a wrong length")[0], end
    if content[length:].strip(_BLANK):
        detail = "several records in one gzip member; run `warcio recompress` on it"
        return _broken(file, offset, detail)[0], end
    if size > limit:
        return _oversized(offset, limit, end)
    return WarcRecord(offset, content[:length]), end


def _cut_plain(
    file: IO[bytes], offset: int, limit: int, start: bytes
) -> tuple[WarcRecord, int]:
    length = _declared_length(start)
    if length is None:
        return _broken(file, offset, "no Content-Length")
    end = offset + length
    size = file.seek(0, 2)
    if end > size or not _ends(file, end):
        # Either the file is cut, or the declared length is wrong.
        restart = _next_start(file, offset)
        if restart == size and end > size:
            return _truncated(offset, size)
        return _broken(file, offset, f"a length of {length:,} bytes is wrong")
    if length > limit:
        return _oversized(offset, limit, end)
    file.seek(offset)
    return WarcRecord(offset, file.read(length)), end


def _ends(file: IO[bytes], end: int) -> bool:
    """Says whether a record may well end here: two line ends follow, or the next."""
    file.seek(end)
    if file.read(4) == b"\r\n\r\n":
        return True
    following = _skip_blank(file, end)
    return following is None or _is_start(file, following)


def _declared_length(content: bytes) -> int | None:
    """Bytes of a record with its header, by what the header says; None without."""
    blank = _HEADER_END.search(content[:_CHUNK])
    if not content.startswith(_WARC) or blank is None:
        return None
    length = _LENGTH.search(content[: blank.start()])
    return blank.end() + int(length[1]) if length else None


def _is_start(file: IO[bytes], offset: int) -> bool:
    file.seek(offset)
    start = file.read(512)
    if not start.startswith(_GZIP):
        return start.startswith(_WARC)
    try:
        return zlib.decompressobj(31).decompress(start, len(_WARC)) == _WARC
    except zlib.error:
        return False


def _next_start(file: IO[bytes], offset: int) -> int:
    """Returns where the next record begins behind an offset, or the file's end."""
    position, tail = offset + 1, b""
    while True:
        file.seek(position)
        chunk = file.read(_CHUNK)
        if not chunk:
            return file.seek(0, 2)
        block = tail + chunk
        for match in _START.finditer(block):
            start = position - len(tail) + match.start()
            if _is_start(file, start):
                return start
        position += len(chunk)
        tail = block[-8:]  # A start, and the line's end before it, over the edge.


def parse_record(content: bytes) -> Any:
    """Parses a record with warcio; `ValueError` of a wrong one, or long headers."""
    with needs("corpus", "web archives are read by warcio"):
        from warcio.archiveiterator import ArchiveIterator
    _check_http_headers(content)
    try:
        record = next(iter(ArchiveIterator(io.BytesIO(content))))
    except Exception as error:  # Broken headers raise any error.
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(problem) from error
    if record.rec_type is None:
        raise ValueError("no WARC-Type")
    return record


def _check_http_headers(content: bytes) -> None:
    """Raises for longer headers than servers send, of which warcio takes minutes."""
    header = _HEADER_END.search(content)
    if header is None or not _HAS_HTTP.search(content, 0, header.end()):
        return
    http = _HEADER_END.search(content, header.end(), header.end() + MAX_HEADER_BYTES)
    if http is None and len(content) - header.end() > MAX_HEADER_BYTES:
        raise ValueError(f"HTTP headers of more than {MAX_HEADER_BYTES:,} bytes")


def parsed_records(
    path: str, counter: DropCounter, limit: int = MAX_WARC_BYTES
) -> Iterator[tuple[int, Any]]:
    """Yields (offset, record of warcio) of a file's good records; counts the others."""
    piece = None
    for piece in iterate_records(path, limit):
        if piece.content is None:
            counter.drop(str(piece.fault), path, piece.detail)
            continue
        try:
            record = parse_record(piece.content)
        except InputError:
            raise
        except ValueError as error:
            counter.drop("broken record", path, f"byte {piece.offset}: {error}")
        else:
            yield piece.offset, record
    if piece is None:
        counter.drop("empty shard", path, "no record")


def response_body(record: Any, limit: int = MAX_WARC_BYTES) -> bytes:
    """Returns a response's unpacked body, or raises `ValueError`, within limits."""
    if record.http_headers is None:
        raise ValueError("no HTTP response")
    encoding = (record.http_headers.get_header("content-encoding") or "").lower()
    if encoding not in ("", "identity", "gzip", "deflate", "br"):
        raise ValueError(f"content-encoding {encoding} is none that can be read")
    if encoding == "br":
        # warcio's own way fails under the current brotli, which it sets a name on.
        record.http_headers.remove_header("content-encoding")
    content = _read(record.content_stream(), limit + 1)
    if encoding == "br":
        content = _without_brotli(content, limit + 1)
    if len(content) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    return content


def _read(stream: Any, limit: int) -> bytes:
    """Reads up to a limit of bytes, of which each may be a chunk of its own."""
    pieces, begun = [], time.thread_time()
    while limit > 0 and (piece := stream.read(min(limit, _CHUNK))):
        pieces.append(piece)
        limit -= len(piece)
        if time.thread_time() - begun > _MAX_SECONDS:
            raise ValueError(f"takes more than {_MAX_SECONDS} seconds to unpack")
    return b"".join(pieces)


def _without_brotli(content: bytes, limit: int) -> bytes:
    try:
        import brotli
    except ImportError:
        raise ValueError(
            'compressed by Brotli, run `pip install "align-keras[corpus]"` to read it'
        ) from None
    try:
        return brotli.Decompressor().process(content, output_buffer_limit=limit)
    except brotli.error:  # Some archives keep the header of what they have unpacked.
        return content


def read_response(path: str, offset: int) -> bytes:
    """Reads the body of the response whose record begins at an offset."""
    record = read_warc_record(path, offset)
    if record.content is None:
        reason = "truncated" if record.fault == "truncated shard" else "unreadable"
        raise ImageError(reason, record.detail)
    try:
        return response_body(parse_record(record.content))
    except ValueError as error:
        raise ImageError("unreadable", str(error)) from error
