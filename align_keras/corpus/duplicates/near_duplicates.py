"""Copies among images: of evaluation images, and inside the corpus."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.corpus.duplicates.embeddings import EmbeddingSearch
from align_keras.corpus.duplicates.hashes import HammingSearch
from align_keras.utils.arguments import check_choice

NEAR_EVALUATION = "near an evaluation image"
NEAR_DUPLICATE = "near duplicate"
DUPLICATE = "duplicate"

# `HammingSearch` or `EmbeddingSearch`, and reason, near image and reference set.
_Search = Any
_Verdict = tuple[str, str, str]
# Values in place of the position of the image that stays.
_OPEN, _LEAVES, _NONE = -1, -2, np.iinfo(np.int64).max
DUPLICATE_SEARCHES = {"hash": HammingSearch, "embedding": EmbeddingSearch}


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A corpus or an evaluation set: `signatures` are `hash_array`'s, uint64 (n, views,
    2), or embeddings, float (n, d); `pixels`, width × height, are equal by default.
    """

    keys: typing.Sequence[str]
    signatures: np.ndarray
    pixels: typing.Sequence[int] | None = None
    pixel_keys: typing.Sequence[str] | None = None
    name: str = ""


class Dropped(typing.NamedTuple):
    """An image that leaves, why, and the image that it is near or equal to."""

    image_key: str
    reason: str
    near_to: str
    reference: str


def find_duplicates(
    corpus: ImageSet,
    references: Sequence[ImageSet] = (),
    mode: str = "hash",
    *,
    inside: bool = True,
    gone: Sequence[Dropped] = (),
    **options: float,
) -> list[Dropped]:
    """Finds the images that leave the corpus, because others show the same.

    1. Images equal to or near one of an evaluation set leave it.
    2. Of images with equal pixels one stays ("duplicate"), with the captions of all.
    3. Of near images the best stays ("near duplicate"), most pixels first, then lowest
       key; the captions of the others are lost. No two that stay are near, and what
       leaves is near one that stays.

    Args:
        corpus: `ImageSet`; equal keys are one image.
        references: evaluation sets, by name; in each the lowest key counts.
        mode: "hash" (`HammingSearch`) or "embedding" (`EmbeddingSearch`).
        inside: bool, take the third step; the paper doesn't.
        gone: `Dropped` that left before.
        **options: the mode's, such as `threshold`.

    Returns:
        list of `Dropped`, by ascending key, whatever the order of the images.

    Raises:
        InputError: another mode, or a wrong threshold.

    References:
        Jia et al. 2021, section 3 and appendix A.
    """
    check_choice(
        "mode", mode, DUPLICATE_SEARCHES, "hash is the cheap one, embedding the paper's"
    )
    search = DUPLICATE_SEARCHES[mode](**options)
    search.fit(corpus.keys, corpus.signatures)
    placed = search.place(corpus.signatures)
    rows, original = _distinct(corpus)
    verdicts_before = {
        image.image_key: (image.reason, image.near_to, image.reference)
        for image in gone
    }
    verdicts = [verdicts_before.get(corpus.keys[row]) for row in rows.tolist()]
    _drop_evaluation(corpus, rows, original, placed, references, search, verdicts)
    _drop_inside(corpus, rows, original, placed, search if inside else None, verdicts)
    return sorted(
        Dropped(corpus.keys[row], *verdict)
        for row, verdict in zip(rows.tolist(), verdicts, strict=True)
        if verdict
    )


def _distinct(corpus: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct keys' rows, best first, and places of their best equals."""
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
    placed: Any,
    references: Sequence[ImageSet],
    search: _Search,
    verdicts: list[_Verdict | None],
) -> None:
    """Fills in the verdicts of all that are equal to or near a reference."""
    for reference in sorted(references, key=lambda images: images.name):
        order = sorted(range(len(reference.keys)), key=reference.keys.__getitem__)
        equal = _equal_images(corpus, rows, reference, order)
        near = _near_images(rows, original, placed, reference, order, search)
        # All images with equal pixels share the result of one of them.
        targets = np.full(len(rows), len(order), np.int64)
        np.minimum.at(targets, original, np.minimum(equal, near))
        for position, target in enumerate(targets[original].tolist()):
            if target < len(order) and verdicts[position] is None:
                key = reference.keys[order[target]]
                verdicts[position] = (NEAR_EVALUATION, key, reference.name)


def _equal_images(
    corpus: ImageSet, rows: np.ndarray, reference: ImageSet, order: list[int]
) -> np.ndarray:
    """Returns the place in `order` of each image's equal; too high for none."""
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
    placed: Any,
    reference: ImageSet,
    order: list[int],
    search: _Search,
) -> np.ndarray:
    """Returns the place in `order` of the first near image; too high for none."""
    positions = np.full(len(rows), len(order), np.int64)
    distinct = np.flatnonzero(original == np.arange(len(rows)))
    reference_signatures = search.place(reference.signatures)
    positions[distinct] = search.lowest(
        placed[rows[distinct]],
        reference_signatures[np.array(order, np.int64)],
        np.arange(len(order)),
        positions[distinct],
    )
    return positions


def _drop_inside(
    corpus: ImageSet,
    rows: np.ndarray,
    original: np.ndarray,
    placed: Any,
    search: _Search | None,
    verdicts: list[_Verdict | None],
) -> None:
    """Fills in the verdicts of all equal to or near an image that stays."""
    is_undecided = np.array([verdict is None for verdict in verdicts], bool)
    distinct = np.flatnonzero(is_undecided & (original == np.arange(len(rows))))
    kept_by = np.arange(len(rows))
    if search is not None:
        kept_by[distinct] = _greedy(search, placed[rows], distinct)
    for position in np.flatnonzero(is_undecided).tolist():
        best = int(kept_by[original[position]])
        if best != position:
            equal = best == original[position]
            reason = DUPLICATE if equal else NEAR_DUPLICATE
            verdicts[position] = (reason, corpus.keys[rows[best]], "")


def _greedy(search: _Search, placed: Any, undecided: np.ndarray) -> np.ndarray:
    """Keeps images, best first, that are near none that was kept; each one's place.

    In each round those without a better near image among the undecided stay, and all
    near to these leave; so one number an image is held, however many pairs are near.
    """
    kept_by = np.full(int(undecided.max(initial=-1)) + 1, _OPEN)
    everyone = undecided
    while len(undecided):
        images = placed[undecided]
        first = search.lowest(images, images, undecided, undecided)
        stays = first == undecided
        kept_by[undecided[stays]] = undecided[stays]
        # The first near one stays: then no better one that stays is near.
        leaves = ~stays & (kept_by[first] == first)
        kept_by[undecided[leaves]] = first[leaves]
        undecided_others = undecided[~stays & ~leaves]
        near = _lowest_of(search, placed, undecided_others, undecided[stays])
        kept_by[undecided_others[near < _NONE]] = _LEAVES
        undecided = undecided_others[near == _NONE]
    # Near one that stays, but a better one may have been kept in a later round.
    late = np.flatnonzero(kept_by == _LEAVES)
    if len(late):
        stays = np.flatnonzero(kept_by == np.arange(len(kept_by)))
        kept_by[late] = _lowest_of(search, placed, late, stays)
    return kept_by[everyone]


def _lowest_of(
    search: _Search, placed: Any, queries: np.ndarray, references: np.ndarray
) -> np.ndarray:
    """Returns for each query the first of some places near it, or `_NONE`."""
    return search.lowest(
        placed[queries],
        placed[references],
        references,
        np.full(len(queries), _NONE),
    )
