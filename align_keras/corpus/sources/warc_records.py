"""Reader of WARC files that continues after damaged records.

warcio and FastWARC stop at a damaged record. This module finds the records by their
gzip members or lengths and parses each one with warcio. FastWARC would need a third of
the time, but most of the time is spent on parsing the pages.
"""

import io
import re
import time
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.source_files import MAX_HEADER_BYTES, MAX_WARC_BYTES
from align_keras.utils.errors import ImageError, InputError, needs
from align_keras.utils.files import open_regular

# Bytes per read.
_CHUNK = 1 << 16
_GZIP = b"\x1f\x8b\x08"
_WARC = b"WARC/"
_START = re.compile(rb"(?<=\n)WARC/\d\.|\x1f\x8b\x08")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"^content-length:\s*(\d{1,18})\s*$", re.I | re.M)
# Bytes that can be between records. After the last record, zeros can fill a block.
_BLANK = b"\r\n\0"
_HAS_HTTP = re.compile(rb"^WARC-Type:\s*(?:response|request|revisit)", re.I | re.M)
# Seconds of processor time for decompressing a response.
_MAX_SECONDS = 4


class WarcRecord(NamedTuple):
    """Record of a WARC file, not parsed.

    Attributes:
        offset: position of the first byte in the file.
        content: bytes of the record without compression, or None if it is damaged.
        fault: drop reason of a damaged record, or None.
        detail: the problem in detail, or "".
    """

    offset: int
    content: bytes | None
    fault: str | None = None
    detail: str = ""


def iterate_records(path: str, limit: int = MAX_WARC_BYTES) -> Iterator[WarcRecord]:
    """Yields the `WarcRecord`s of a file.

    Args:
        path: path or address of a WARC file. The file is not compressed, or each record
            is a gzip member.
        limit: bytes. Longer records count as damaged.
    """
    with open_regular(path) as file:
        offset = _skip_blank(file, 0)
        while offset is not None:
            record, offset = _read_record(file, offset, limit)
            yield record
            offset = _skip_blank(file, offset)


def read_warc_record(path: str, offset: int) -> WarcRecord:
    """Reads the record that begins at an offset of a WARC file."""
    with open_regular(path) as file:
        return _read_record(file, offset, MAX_WARC_BYTES)[0]


def _skip_blank(file: IO[bytes], offset: int) -> int | None:
    """Returns the first position from `offset` on that is not blank, or None."""
    file.seek(offset)
    while chunk := file.read(_CHUNK):
        length = len(chunk.lstrip(_BLANK))
        if length:
            return offset + len(chunk) - length
        offset += len(chunk)
    return None


def _read_record(file: IO[bytes], offset: int, limit: int) -> tuple[WarcRecord, int]:
    """Returns the record at an offset, and the position at which to continue."""
    file.seek(offset)
    start = file.read(_CHUNK)
    if start.startswith(_GZIP):
        return _read_gzip_member(file, offset, limit)
    if start.startswith(_WARC):
        return _read_plain(file, offset, limit, start)
    return _broken(file, offset, "no record begins here")


def _broken(file: IO[bytes], offset: int, detail: str) -> tuple[WarcRecord, int]:
    fault = WarcRecord(offset, None, "broken record", f"byte {offset}: {detail}")
    return fault, _next_start(file, offset)


def _truncated(offset: int, end: int) -> tuple[WarcRecord, int]:
    detail = f"the record at byte {offset} is incomplete"
    return WarcRecord(offset, None, "truncated shard", detail), end


def _oversized(offset: int, limit: int, end: int) -> tuple[WarcRecord, int]:
    detail = f"byte {offset}: more than {limit:,} bytes"
    return WarcRecord(offset, None, "oversized record", detail), end


def _read_gzip_member(
    file: IO[bytes], offset: int, limit: int
) -> tuple[WarcRecord, int]:
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
        # The content up to the limit contains at least the header, and the header
        # contains the length.
        pieces.append(piece[: max(limit - size, 0)])
        size += len(piece)
    end = file.tell() - len(decompressor.unused_data)
    content = b"".join(pieces)
    length = _declared_length(content)
    if length is None or length > size:
        return _broken(file, offset, "no record, or a record of wrong length")[0], end
    if content[length:].strip(_BLANK):
        detail = "several records in a gzip member, run `warcio recompress` on the file"
        return _broken(file, offset, detail)[0], end
    if size > limit:
        return _oversized(offset, limit, end)
    return WarcRecord(offset, content[:length]), end


def _read_plain(
    file: IO[bytes], offset: int, limit: int, start: bytes
) -> tuple[WarcRecord, int]:
    """Reads an uncompressed record. `start` contains its first bytes."""
    length = _declared_length(start)
    if length is None:
        return _broken(file, offset, "no Content-Length")
    end = offset + length
    size = file.seek(0, 2)
    if end > size or not _can_end(file, end):
        # The file is truncated if there is no other record after the declared length.
        # Otherwise the declared length is wrong.
        restart = _next_start(file, offset)
        if restart == size and end > size:
            return _truncated(offset, size)
        return _broken(file, offset, f"the length of {length:,} bytes is wrong")
    if length > limit:
        return _oversized(offset, limit, end)
    file.seek(offset)
    return WarcRecord(offset, file.read(length)), end


def _can_end(file: IO[bytes], end: int) -> bool:
    """Returns True if two line breaks, another record or the end of the file follow."""
    file.seek(end)
    if file.read(4) == b"\r\n\r\n":
        return True
    next_offset = _skip_blank(file, end)
    return next_offset is None or _is_start(file, next_offset)


def _declared_length(content: bytes) -> int | None:
    """Returns the size of a record with its header in bytes, or None if unknown."""
    header = _HEADER_END.search(content[:_CHUNK])
    if not content.startswith(_WARC) or header is None:
        return None
    length = _LENGTH.search(content[: header.start()])
    return header.end() + int(length[1]) if length else None


def _is_start(file: IO[bytes], offset: int) -> bool:
    """Returns True if a record, compressed or not, begins at an offset."""
    file.seek(offset)
    start = file.read(512)
    if not start.startswith(_GZIP):
        return start.startswith(_WARC)
    try:
        return zlib.decompressobj(31).decompress(start, len(_WARC)) == _WARC
    except zlib.error:
        return False


def _next_start(file: IO[bytes], offset: int) -> int:
    """Returns the start of the next record after an offset, or the end of the file."""
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
        # The start of a record can be at the boundary of two chunks.
        tail = block[-8:]


def parse_record(content: bytes) -> Any:
    """Parses a record with warcio.

    Args:
        content: bytes of the record without compression.

    Returns:
        `warcio.recordloader.ArcWarcRecord`.

    Raises:
        ValueError: if the record is damaged, or its HTTP headers are too long.
        InputError: if warcio is not installed.
    """
    with needs("corpus", "Reading web archives needs warcio"):
        from warcio.archiveiterator import ArchiveIterator
    _check_http_headers(content)
    try:
        record = next(iter(ArchiveIterator(io.BytesIO(content))))
    except Exception as error:  # Damaged headers can raise any error.
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(problem) from error
    if record.rec_type is None:
        raise ValueError("no WARC-Type")
    return record


def _check_http_headers(content: bytes) -> None:
    """Raises ValueError for very long HTTP headers, which take warcio minutes."""
    header = _HEADER_END.search(content)
    if header is None or not _HAS_HTTP.search(content, 0, header.end()):
        return
    http = _HEADER_END.search(content, header.end(), header.end() + MAX_HEADER_BYTES)
    if http is None and len(content) - header.end() > MAX_HEADER_BYTES:
        raise ValueError(f"HTTP headers of more than {MAX_HEADER_BYTES:,} bytes")


def parsed_records(
    path: str, counter: DropCounter, limit: int = MAX_WARC_BYTES
) -> Iterator[tuple[int, Any]]:
    """Yields the records of a file that can be parsed, and counts damaged records.

    Args:
        path: path or address of a WARC file.
        counter: `DropCounter` for the damaged records.
        limit: bytes. Longer records are dropped.

    Yields:
        Tuple (offset, `warcio.recordloader.ArcWarcRecord`).
    """
    warc_record = None
    for warc_record in iterate_records(path, limit):
        if warc_record.content is None:
            counter.drop(str(warc_record.fault), path, warc_record.detail)
            continue
        try:
            parsed_record = parse_record(warc_record.content)
        except InputError:
            raise
        except ValueError as error:
            detail = f"byte {warc_record.offset}: {error}"
            counter.drop("broken record", path, detail)
        else:
            yield warc_record.offset, parsed_record
    if warc_record is None:
        counter.drop("empty shard", path, "no record")


def response_body(record: Any, limit: int = MAX_WARC_BYTES) -> bytes:
    """Returns the decompressed body of a response.

    Args:
        record: `warcio.recordloader.ArcWarcRecord`.
        limit: maximum number of bytes.

    Raises:
        ValueError: if the record is not a response, or its body is damaged, too long or
            takes too long.
    """
    if record.http_headers is None:
        raise ValueError("no HTTP response")
    encoding = (record.http_headers.get_header("content-encoding") or "").lower()
    if encoding not in ("", "identity", "gzip", "deflate", "br"):
        raise ValueError(f"content-encoding {encoding} is not supported")
    if encoding == "br":
        # warcio's decompression fails with current versions of brotli, because it sets
        # an attribute that their decompressor does not allow.
        record.http_headers.remove_header("content-encoding")
    content = _read(record.content_stream(), limit + 1)
    if encoding == "br":
        content = _decompress_brotli(content, limit + 1)
    if len(content) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    return content


def _read(stream: Any, limit: int) -> bytes:
    """Reads at most `limit` bytes of a stream."""
    pieces, start = [], time.thread_time()
    while limit > 0 and (piece := stream.read(min(limit, _CHUNK))):
        pieces.append(piece)
        limit -= len(piece)
        if time.thread_time() - start > _MAX_SECONDS:
            raise ValueError(f"takes more than {_MAX_SECONDS} seconds to decompress")
    return b"".join(pieces)


def _decompress_brotli(content: bytes, limit: int) -> bytes:
    try:
        import brotli
    except ImportError:
        raise ValueError(
            'compressed by Brotli, run `pip install "align-keras[corpus]"` to read it'
        ) from None
    try:
        return brotli.Decompressor().process(content, output_buffer_limit=limit)
    except brotli.error:
        # Some archives store the decompressed body with the original header.
        return content


def read_response(path: str, offset: int) -> bytes:
    """Reads the body of the response at an offset of a WARC file.

    Raises:
        ImageError: if the record or the body cannot be read.
    """
    record = read_warc_record(path, offset)
    if record.content is None:
        reason = "truncated" if record.fault == "truncated shard" else "unreadable"
        raise ImageError(reason, record.detail)
    try:
        return response_body(parse_record(record.content))
    except ValueError as error:
        raise ImageError("unreadable", str(error)) from error
