"""The responses in WARC records: warcio's parser, with limits and named faults."""

import io
import re
import time

from align_keras.corpus.picture import PictureError
from align_keras.corpus.sources.warc_records import MAX_RECORD_BYTES, read_record
from align_keras.utils.extras import needs

_HEADER_END = re.compile(rb"\r?\n\r?\n")
_HAS_HTTP = re.compile(rb"^WARC-Type:\s*(?:response|request|revisit)", re.I | re.M)
_MAX_HEADER_BYTES = 64_000
_MAX_SECONDS = 4
_STEP = 1 << 16


def parse_record(content):
    """Parses a record with warcio.

    Args:
        content: bytes, uncompressed.

    Returns:
        `warcio.recordloader.ArcWarcRecord`.

    Raises:
        InputError: if warcio isn't installed.
        ValueError: if it is no record, or its HTTP headers have more than 64,000 bytes.

    Example:

    >>> record = parse_record(b"WARC/1.0\\r\\nWARC-Type: metadata\\r\\n"
    ...                       b"Content-Length: 3\\r\\n\\r\\ncat")
    >>> record.rec_type, record.raw_stream.read()
    ('metadata', b'cat')
    """
    with needs("corpus", "web archives are read by warcio"):
        from warcio.archiveiterator import ArchiveIterator
    _check_http_headers(content)
    try:
        record = next(iter(ArchiveIterator(io.BytesIO(content))))
    except Exception as error:  # Whatever broken headers lead to.
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(problem) from error
    if record.rec_type is None:
        raise ValueError("no WARC-Type")
    return record


def _check_http_headers(content):
    """Raises for longer headers than servers send, of which warcio takes minutes."""
    own = _HEADER_END.search(content)
    if own is None or not _HAS_HTTP.search(content, 0, own.end()):
        return
    http = _HEADER_END.search(content, own.end(), own.end() + _MAX_HEADER_BYTES)
    if http is None and len(content) - own.end() > _MAX_HEADER_BYTES:
        raise ValueError(f"HTTP headers of more than {_MAX_HEADER_BYTES:,} bytes")


def response_body(record, limit=MAX_RECORD_BYTES):
    """Returns a response's body, its transfer and content encodings undone.

    Args:
        record: `warcio.recordloader.ArcWarcRecord`.
        limit: int, bytes that the decoded body may have.

    Returns:
        bytes.

    Raises:
        ValueError: if the body is longer, or its encoding can't be read, or takes more
            than 4 seconds, or it is no HTTP response.
    """
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


def _read(stream, limit):
    """Reads up to a limit of bytes, of which each may be a chunk of its own."""
    pieces, begun = [], time.thread_time()
    while limit > 0 and (piece := stream.read(min(limit, _STEP))):
        pieces.append(piece)
        limit -= len(piece)
        if time.thread_time() - begun > _MAX_SECONDS:
            raise ValueError(f"takes more than {_MAX_SECONDS} seconds to unpack")
    return b"".join(pieces)


def _without_brotli(content, limit):
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


def read_response(path, offset, limit=MAX_RECORD_BYTES):
    """Reads the body of the response whose record begins at an offset.

    Args:
        path: str.
        offset: int, bytes.
        limit: int, bytes that the record and the decoded body may have.

    Returns:
        bytes.

    Raises:
        PictureError: `"truncated"` or `"unreadable"`.
        OSError: if the file can't be opened.
    """
    own = read_record(path, offset, limit)
    if own.content is None:
        reason = "truncated" if own.fault == "truncated shard" else "unreadable"
        raise PictureError(reason, own.detail)
    try:
        return response_body(parse_record(own.content), limit)
    except ValueError as error:
        raise PictureError("unreadable", str(error)) from error
