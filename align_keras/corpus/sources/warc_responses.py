"""The responses in WARC records: warcio's parser, with limits and named faults."""

import io

from align_keras.corpus.picture import PictureError
from align_keras.corpus.sources.warc_records import MAX_RECORD_BYTES, read_record
from align_keras.utils.extras import needs


def parse_record(content):
    """Parses a record with warcio.

    Args:
        content: bytes, uncompressed.

    Returns:
        `warcio.recordloader.ArcWarcRecord`.

    Raises:
        InputError: if warcio isn't installed.
        ValueError: if it is no record.

    Example:

    >>> record = parse_record(b"WARC/1.0\\r\\nWARC-Type: metadata\\r\\n"
    ...                       b"Content-Length: 3\\r\\n\\r\\ncat")
    >>> record.rec_type, record.raw_stream.read()
    ('metadata', b'cat')
    """
    with needs("corpus", "web archives are read by warcio"):
        from warcio.archiveiterator import ArchiveIterator
    try:
        record = next(iter(ArchiveIterator(io.BytesIO(content))))
    except Exception as error:  # Whatever broken headers lead to.
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(problem) from error
    if record.rec_type is None:
        raise ValueError("no WARC-Type")
    return record


def response_body(record, limit=MAX_RECORD_BYTES):
    """Returns a response's body, its transfer and content encodings undone.

    Args:
        record: `warcio.recordloader.ArcWarcRecord`.
        limit: int, bytes that the decoded body may have.

    Returns:
        bytes.

    Raises:
        ValueError: if the body is longer, or its encoding can't be read, or it
            is no HTTP response.
    """
    if record.http_headers is None:
        raise ValueError("no HTTP response")
    encoding = (record.http_headers.get_header("content-encoding") or "").lower()
    if encoding not in ("", "identity", "gzip", "deflate", "br"):
        raise ValueError(f"content-encoding {encoding} is none that can be read")
    if encoding == "br":
        # warcio's own way fails under the current brotli, which it sets a name on.
        record.http_headers.remove_header("content-encoding")
    content = record.content_stream().read(limit + 1)
    if encoding == "br":
        content = _without_brotli(content, limit + 1)
    if len(content) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    return content


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
