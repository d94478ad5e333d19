"""Extraction of the pairs of a source to tables, with the sizes of their images."""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.parquet_tables import pair_schema, table_writer
from align_keras.corpus.sources.location import is_remote, read_location
from align_keras.corpus.sources.pair import Part, SourcePair
from align_keras.corpus.sources.source import SHARD_KINDS, read_part
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.pillow_images import image_size

# Reason under which a pair is counted that `caption_rules` excludes.
OTHER_RULE = "caption rule is not in caption_rules"
# Remark in the corpus report about pairs whose image differs from the image on the web.
PADDED = (
    "pairs whose image the downloader padded or cropped (fetch it again with "
    "img2dataset --resize_mode no)"
)
# Number of images whose sizes and keys are cached. Pages repeat some images, such as a
# logo.
_CACHED_IMAGES = 4096


def extract_part(task: dict) -> dict:
    """Writes a table of the pairs of a part, with the sizes and keys of their images.

    Args:
        task: dict with `part` (fields of `Part`), `source` (name), `table` (path of the
            result), `spool` (as in `read_part`) and optionally `caption_rules` (list of
            the rules to keep).

    Returns:
        Metadata of the `DropCounter`.

    Raises:
        InputError: if a file of the part vanished or changed.
    """
    part, counter = Part(**task["part"]), DropCounter()
    pairs = read_part(part, counter, spool=task["spool"])
    if task.get("caption_rules"):
        pairs = _filter_by_rule(pairs, task["caption_rules"], counter)
    rows = _sized_rows(pairs, counter)
    if part.kind in SHARD_KINDS:
        rows = _detect_resized(rows)
    with table_writer(task["table"], pair_schema()) as append:
        for row in rows:
            append([{**row, "source": task["source"]}])
        if counter.bad["vanished"]:
            raise InputError(
                f"The source {task['source']} must not change while it is read. "
                f"Received: {counter.bad['vanished']} of its files vanished or changed "
                f"({counter.examples['vanished']}). Restore the files or remove the "
                "source, and run again. The pairs from other sources are not read "
                "again."
            )
    return counter.as_metadata()


def _filter_by_rule(
    pairs: Iterable[SourcePair], caption_rules: Sequence[str], counter: DropCounter
) -> Iterator[SourcePair]:
    """Yields the pairs whose rule is in `caption_rules`, and counts the other pairs."""
    for pair in pairs:
        if pair.rule in caption_rules:
            yield pair
        else:
            position = pair.page_url or pair.image[:200]
            counter.filter(OTHER_RULE, position, f"{pair.rule}: {pair.caption[:200]}")


def _sized_rows(
    pairs: Iterable[SourcePair], counter: DropCounter
) -> Iterator[dict[str, Any]]:
    """Yields rows of a table of pairs, with the sizes and keys of the images."""
    # Pairs with an unreadable image are counted and skipped.
    probe_image = functools.lru_cache(_CACHED_IMAGES)(_probe_image)
    for pair in pairs:
        key, width, height, error = probe_image(pair.image)
        if error is not None:
            counter.drop(error.reason, pair.image[:200], error.detail)
            continue
        counter.keep()
        if pair.original_size and all(pair.original_size):
            if width and _has_other_aspect((width, height), pair.original_size):
                counter.note(PADDED)
            width, height = pair.original_size
        yield {
            **pair._asdict(),
            "image_key": key,
            "width": width,
            "height": height,
            "is_resized": False,
        }


def _has_other_aspect(size: tuple[int, int], original_size: tuple[int, int]) -> bool:
    """Returns True if two sizes differ in their aspect ratio by more than rounding."""
    width, height = size
    original_width, original_height = original_size
    difference = abs(width * original_height - height * original_width)
    # Rounding changes each side by less than a pixel.
    return difference > original_width + original_height


def _detect_resized(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Sets `is_resized` for a shard that was resized to squares of the same size."""
    # img2dataset resizes all images to such squares by default. The detection is for
    # shards without original sizes.
    squares: list[dict] = []
    can_be_resized = True
    for row in rows:
        is_local = row["width"] > 0
        if not can_be_resized or not is_local or row["original_size"] is not None:
            yield row
            continue
        squares.append(row)
        side = squares[0]["width"]
        if (row["width"], row["height"]) != (side, side):
            can_be_resized = False
            yield from squares
            squares.clear()
    # A single square image does not prove that the shard was resized.
    is_resized = len({row["image_key"] for row in squares}) > 1
    for row in squares:
        yield {**row, "is_resized": is_resized}


def merged_counts(counts: list[dict]) -> dict:
    """Adds the results of `extract_part`, with the first example of each drop reason.

    Args:
        counts: list of dict, metadata of `DropCounter`.

    Returns:
        Metadata of a `DropCounter`.
    """
    total = DropCounter()
    for part in counts:
        total.add(DropCounter.from_metadata(part))
    return total.as_metadata()


def _probe_image(location: str) -> tuple[str, int, int, ImageError | None]:
    """Returns (key, width, height, None), or ("", 0, 0, error) if it is unreadable."""
    # The size of a remote image is 0, 0.
    if is_remote(location):
        return location, 0, 0, None
    try:
        content = read_location(location)
        size = image_size(content)
    except ImageError as error:
        return "", 0, 0, error
    return hashlib.blake2b(content, digest_size=16).hexdigest(), *size, None
