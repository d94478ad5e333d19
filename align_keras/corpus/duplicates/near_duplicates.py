"""Removal of near duplicates within a corpus, and of copies of evaluation images."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.corpus.duplicates.embeddings import EmbeddingSearch
from align_keras.corpus.duplicates.hashes import HammingSearch

NEAR_EVALUATION = "near an evaluation image"
NEAR_DUPLICATE = "near duplicate"
DUPLICATE = "duplicate"

# `HammingSearch` or `EmbeddingSearch`.
_Search = Any
# Reason, key of the near image, and name of its reference set.
_Drop = tuple[str, str, str]
# Values of `kept_by` for undecided images, and for dropped images whose best near image
# is not known yet.
_UNDECIDED, _DROPPED = -1, -2
# Rank that is larger than all others.
_NO_MATCH = np.iinfo(np.int64).max
DUPLICATE_SEARCHES = {"hash": HammingSearch, "embedding": EmbeddingSearch}


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images of a corpus or of an evaluation set.

    Attributes:
        keys: str of each image.
        signatures: hashes from `hash_array`, uint64 (n, views, 2), or embeddings,
            float (n, d).
        pixels: width × height of each image. By default all are equal.
        pixel_keys: equal for images with equal pixels. "" or None if unknown.
        name: name of an evaluation set.
    """

    keys: typing.Sequence[str]
    signatures: np.ndarray
    pixels: typing.Sequence[int] | None = None
    pixel_keys: typing.Sequence[str] | None = None
    name: str = ""


class Dropped(typing.NamedTuple):
    """A dropped image.

    Attributes:
        image_key: key of the dropped image.
        reason: `NEAR_EVALUATION`, `NEAR_DUPLICATE` or `DUPLICATE`.
        near_to: key of the equal or near image.
        reference: name of the evaluation set of that image, or "".
    """

    image_key: str
    reason: str
    near_to: str
    reference: str


def find_duplicates(
    corpus: ImageSet,
    references: Sequence[ImageSet] = (),
    mode: str = "hash",
    *,
    inside_corpus: bool = True,
    dropped_before: Sequence[Dropped] = (),
    **options: float,
) -> list[Dropped]:
    """Finds copies of images that a corpus should drop.

    1. Images that are equal or near to an image of an evaluation set are dropped.
    2. Among images with equal pixels, only one image is kept, with the captions of all
    these images. The reason is "duplicate". 3. Among near images, the best image is
    kept, which has the most pixels or, among equal sizes, the lowest key. The captions
    of the dropped images are lost. The reason is "near duplicate". No two kept images
    are near, and every dropped image is near a kept image.

    Args:
        corpus: `ImageSet`. Equal keys count as one image.
        references: evaluation sets. `Dropped.near_to` is the near image with the lowest
            key in the first set by name.
        mode: "hash" (`HammingSearch`) or "embedding" (`EmbeddingSearch`).
        inside_corpus: whether to run the third step, which the paper does not have.
        dropped_before: `Dropped` images of an earlier search. They are returned
            unchanged, and no image is dropped as their copy.
        **options: options of the search class, such as `threshold`.

    Returns:
        list of `Dropped`, sorted by key. It doesn't depend on the order of the images.

    References:
        Jia et al. 2021, section 3 and appendix A.
    """
    search = DUPLICATE_SEARCHES[mode](**options)
    search.fit(corpus.keys, corpus.signatures)
    prepared = search.prepare(corpus.signatures)
    rows, original = _distinct(corpus)
    earlier_drops = {
        image.image_key: (image.reason, image.near_to, image.reference)
        for image in dropped_before
    }
    drops = [earlier_drops.get(corpus.keys[row]) for row in rows.tolist()]
    _drop_evaluation(corpus, rows, original, prepared, references, search, drops)
    _drop_inside_corpus(
        corpus, rows, original, prepared, search if inside_corpus else None, drops
    )
    return sorted(
        Dropped(corpus.keys[row], *drop)
        for row, drop in zip(rows.tolist(), drops, strict=True)
        if drop
    )


def _distinct(corpus: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows of the distinct keys, and groups the images with equal pixels."""
    # `original` has the position in `rows` of the best image with equal pixels.
    count = len(corpus.keys)
    keys = np.array([key.encode("utf-8", "surrogatepass") for key in corpus.keys], "S")
    pixels = np.zeros(count, np.int64)
    if corpus.pixels is not None:
        pixels = np.asarray(corpus.pixels, np.int64)
    rows = np.lexsort((keys, -pixels))
    rows_of_keys: dict[str, int] = {}
    position_of_pixels: dict[str, int] = {}
    original: list[int] = []
    for row in rows.tolist():
        if corpus.keys[row] in rows_of_keys:
            continue
        position, rows_of_keys[corpus.keys[row]] = len(rows_of_keys), row
        pixel_key = None if corpus.pixel_keys is None else corpus.pixel_keys[row]
        original.append(
            position_of_pixels.setdefault(pixel_key, position)
            if pixel_key
            else position
        )
    return np.array(list(rows_of_keys.values()), np.int64), np.array(original, np.int64)


def _drop_evaluation(
    corpus: ImageSet,
    rows: np.ndarray,
    original: np.ndarray,
    prepared: Any,
    references: Sequence[ImageSet],
    search: _Search,
    drops: list[_Drop | None],
) -> None:
    """Sets the entry in `drops` of images that are equal or near to a reference."""
    for reference in sorted(references, key=lambda images: images.name):
        order = sorted(range(len(reference.keys)), key=reference.keys.__getitem__)
        equal = _equal_images(corpus, rows, reference, order)
        near = _near_images(rows, original, prepared, reference, order, search)
        # Only one of several images with equal pixels is searched. The others share its
        # result.
        targets = np.full(len(rows), len(order), np.int64)
        np.minimum.at(targets, original, np.minimum(equal, near))
        for position, target in enumerate(targets[original].tolist()):
            if target < len(order) and drops[position] is None:
                key = reference.keys[order[target]]
                drops[position] = (NEAR_EVALUATION, key, reference.name)


def _equal_images(
    corpus: ImageSet, rows: np.ndarray, reference: ImageSet, order: list[int]
) -> np.ndarray:
    """Finds the first reference in `order` with the key or pixels of each image."""
    # The result has positions in `order`, or `len(order)` without such a reference.
    position_of: dict[tuple[str, str], int] = {}
    for position, row in enumerate(order):
        position_of.setdefault(("key", reference.keys[row]), position)
        if reference.pixel_keys is not None and reference.pixel_keys[row]:
            position_of.setdefault(("pixels", reference.pixel_keys[row]), position)
    positions = np.full(len(rows), len(order), np.int64)
    for number, row in enumerate(rows.tolist()):
        position = position_of.get(("key", corpus.keys[row]), len(order))
        if corpus.pixel_keys is not None:
            pixels = ("pixels", corpus.pixel_keys[row])
            position = min(position, position_of.get(pixels, len(order)))
        positions[number] = position
    return positions


def _near_images(
    rows: np.ndarray,
    original: np.ndarray,
    prepared: Any,
    reference: ImageSet,
    order: list[int],
    search: _Search,
) -> np.ndarray:
    """Finds the first near reference in `order` for each image."""
    # The result has positions in `order`, or `len(order)` without such a reference.
    positions = np.full(len(rows), len(order), np.int64)
    distinct = np.flatnonzero(original == np.arange(len(rows)))
    prepared_references = search.prepare(reference.signatures)
    positions[distinct] = search.lowest_ranks(
        prepared[rows[distinct]],
        prepared_references[np.array(order, np.int64)],
        np.arange(len(order)),
        positions[distinct],
    )
    return positions


def _drop_inside_corpus(
    corpus: ImageSet,
    rows: np.ndarray,
    original: np.ndarray,
    prepared: Any,
    search: _Search | None,
    drops: list[_Drop | None],
) -> None:
    """Sets the entry in `drops` of images that are equal or near to a kept image."""
    is_undecided = np.array([drop is None for drop in drops], bool)
    distinct = np.flatnonzero(is_undecided & (original == np.arange(len(rows))))
    kept_by = np.arange(len(rows))
    if search is not None:
        kept_by[distinct] = _select_greedily(search, prepared[rows], distinct)
    for position in np.flatnonzero(is_undecided).tolist():
        best = int(kept_by[original[position]])
        if best != position:
            equal = best == original[position]
            reason = DUPLICATE if equal else NEAR_DUPLICATE
            drops[position] = (reason, corpus.keys[rows[best]], "")


def _select_greedily(
    search: _Search, prepared: Any, positions: np.ndarray
) -> np.ndarray:
    """Returns the position of the kept image for each of `positions`."""
    # The images are sorted with the best first. Each round keeps the undecided images
    # that have no better near image among the undecided images, and drops all images
    # near them. The memory does not depend on the number of near pairs.
    kept_by = np.full(int(positions.max(initial=-1)) + 1, _UNDECIDED)
    undecided = positions
    while len(undecided):
        images = prepared[undecided]
        first = search.lowest_ranks(images, images, undecided, undecided)
        is_kept = first == undecided
        kept_by[undecided[is_kept]] = undecided[is_kept]
        # The best near image is kept, so it is the result for this image.
        is_dropped = ~is_kept & (kept_by[first] == first)
        kept_by[undecided[is_dropped]] = first[is_dropped]
        remaining = undecided[~is_kept & ~is_dropped]
        near = _first_near(search, prepared, remaining, undecided[is_kept])
        kept_by[remaining[near < _NO_MATCH]] = _DROPPED
        undecided = remaining[near == _NO_MATCH]
    # A later round may have kept a better near image of these images.
    dropped = np.flatnonzero(kept_by == _DROPPED)
    if len(dropped):
        kept_positions = np.flatnonzero(kept_by == np.arange(len(kept_by)))
        kept_by[dropped] = _first_near(search, prepared, dropped, kept_positions)
    return kept_by[positions]


def _first_near(
    search: _Search, prepared: Any, queries: np.ndarray, references: np.ndarray
) -> np.ndarray:
    """Returns the first of `references` that is near each query, or `_NO_MATCH`."""
    return search.lowest_ranks(
        prepared[queries],
        prepared[references],
        references,
        np.full(len(queries), _NO_MATCH),
    )
