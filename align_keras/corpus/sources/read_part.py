"""The pairs of one part of a source, whatever its kind."""

from align_keras.corpus.captions import (
    FILE_NAME,
    caption_fault,
    clean_caption,
    names_file,
)
from align_keras.corpus.sources.source import KINDS

# Shards of img2dataset: alt-texts as crawls found them. The readers of pages look for
# such captions themselves, as they know the images' addresses.
_CRAWLED = ("webdataset", "parquet", "tfrecord")


def read_part(part, counter, spool=None):
    """Reads the pairs of a part, past whatever is broken in it.

    Args:
        part: `align_keras.corpus.sources.part.Part`.
        counter: `align_keras.corpus.drop_counter.DropCounter`. What can't be read is
            dropped in it with an example; kept pairs aren't counted. Beside the
            reasons of captions and tables these are: `"broken record"`, `"malformed
            page"`, `"truncated shard"`, `"empty shard"`, `"oversized record"`,
            `"missing"`, `"outside the source"` and, filtered, `"not downloaded"`,
            `"evaluation set"` and `"caption is a file name or an address"`, of sources
            that hold alt-texts of the web. A file that has gone, or has changed since
            it was listed, is `"vanished"`: as long as `counter.bad["vanished"]` isn't
            0, the part isn't read completely and must be listed and read again.
        spool: str or path, the folder for pictures that have no file of their own;
            only the kind `tfds` needs it.

    Yields:
        `align_keras.corpus.sources.source_pair.SourcePair` in the part's order,
        captions cleaned as `clean_caption`, and nothing that UTF-8 can't hold.

    Raises:
        InputError: if a package that the kind needs isn't installed.

    Example:

    >>> import pathlib, tempfile
    >>> from align_keras.corpus.drop_counter import DropCounter
    >>> from align_keras.corpus.sources.source import open_source
    >>> table = pathlib.Path(tempfile.mkdtemp(), "a.csv")
    >>> _ = table.write_text("image,caption\\n/b.jpg,A  cat\\n/c.jpg,\\n")
    >>> [part] = open_source(f"{table}").parts()
    >>> counter = DropCounter()
    >>> list(read_part(part, counter))
    [SourcePair(image='/b.jpg', caption='A cat', rule='caption', language='',
    page_url='')]
    >>> counter.bad["empty caption"]
    1
    """
    reader = KINDS[part.kind].read
    own = reader(part, counter, spool) if part.kind == "tfds" else reader(part, counter)
    for pair in own:
        caption = clean_caption(pair.caption)
        fault = caption_fault(caption)
        if fault:
            counter.drop(fault[0], _storable(pair.page_url or pair.image), fault[1])
        elif part.kind in _CRAWLED and names_file(caption):
            where = _storable(pair.page_url or pair.image)
            counter.filter(FILE_NAME, where, caption[:200])
        else:
            yield pair._replace(
                image=_storable(pair.image),
                caption=caption,
                language=_storable(pair.language.strip().lower()),
                page_url=_storable(pair.page_url),
            )


def _storable(text):
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
