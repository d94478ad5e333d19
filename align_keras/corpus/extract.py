"""Extract: from a part of a source to a table of raw pairs."""

import functools
import hashlib

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.image import ImageError, image_size
from align_keras.corpus.parquet_tables import pair_schema, table_writer
from align_keras.corpus.sources import Part, is_remote, read_location, read_part
from align_keras.utils.errors import InputError

# Images that a page shows again and again, such as its logo.
_KNOWN_IMAGES = 4096


def extract_part(task):
    """Writes the pairs of one part, with the sizes and keys of their images.

    Args:
        task: dict with `part` (`Part` as dict), `source` (str, its name), `table`
            (str, the file to write) and `spool` (str, folder for images that have
            no file of their own).

    Returns:
        dict, what was kept and dropped, as `DropCounter.as_metadata` says.

    Raises:
        InputError: if a file of the part has gone.
    """
    part, counter = _part(task["part"]), DropCounter()
    probe = functools.lru_cache(_KNOWN_IMAGES)(_probe)
    with table_writer(task["table"], pair_schema()) as append:
        for pair in read_part(part, counter, spool=task["spool"]):
            key, width, height, fault = probe(pair.image)
            if fault is not None:
                counter.drop(fault.reason, pair.image[:200], fault.detail)
                continue
            counter.keep()
            append(
                [
                    {
                        **pair._asdict(),
                        "image_key": key,
                        "width": width,
                        "height": height,
                        "source": task["source"],
                    }
                ]
            )
        if counter.bad["vanished"]:
            raise InputError(
                f"source {task['source']} must stay as it is while it is read, but "
                f"{counter.bad['vanished']} of its files vanished or changed "
                f"({counter.examples['vanished']}); put them back or leave the source "
                "out, and run again: what was read of the others is kept."
            )
    return counter.as_metadata()


def merged_counts(counts):
    """Adds up what `extract_part` returned.

    Args:
        counts: list of dict.

    Returns:
        dict of the same form; of several examples the first counts.
    """
    total = DropCounter()
    for part in counts:
        total.add(DropCounter.from_metadata(part))
    return total.as_metadata()


def _part(fields):
    """Restores what became lists on its way through JSON."""
    options = tuple(map(tuple, fields["options"]))
    return Part(**{**fields, "files": tuple(fields["files"]), "options": options})


def _probe(location):
    """Returns (key, width, height, None), or the `ImageError` as the last."""
    if is_remote(location):
        return location, 0, 0, None
    try:
        content = read_location(location)
        size = image_size(content)
    except ImageError as error:
        return "", 0, 0, error
    return hashlib.blake2b(content, digest_size=16).hexdigest(), *size, None
