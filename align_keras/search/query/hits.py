"""Hits of a search: their relevance, and their part that does not depend on the query.

That part is cached until the index changes. Reading it from the database takes longer
than ranking the images of a small index.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from align_keras.search.index.folder_files import (
    path_of_image,
    stored_image_of,
)
from align_keras.search.index.image_store import ImageStore
from align_keras.search.index.schema import INDEX_COLUMNS

# Number of images whose details are cached. Those of an image without captions take
# about 1 kB.
CACHED_IMAGES = 10_000
# Weights of the logistic regression in `relevance`. `tools/benchmarks/bench_marks.py`
# fitted it with align_small_en on six sources of images that are not training images.
# The page of `align-keras export web` reads the weights from its `model.json`.
RELEVANCE_WEIGHTS = {
    "height": 1.77,
    "crowd": -0.93,
    "bias": -0.98,
    # Factor of the heights in the crowd. 1, 2 and 2.5 fit the sources less well.
    "steepness": 1.5,
    # The heights of few scores are small, even if an image is right.
    "fewest_images": 20,
}


@dataclasses.dataclass
class Hit:
    """Image in the result of a search.

    Attributes:
        rank: 1 for the best hit.
        score: cosine similarity of the query and the image, or None without a
            query.
        id: id of the image in the index.
        path: path of the image, or its id in `Index.from_embeddings`. A path that
            is not UTF-8 is decoded with `os.fsdecode`.
        relevance: estimate of the probability that the image is right (see the
            function `relevance`). None if the query has an image or no words, and in an
            index of fewer than 20 images.
        captions: captions from tables.
        columns: the other columns of the image such as `folder`, `date`, `width`
            and `camera`, and the columns of tables. If several rows of tables name the
            image, a column has the value of the first row that has one.
        duplicates: paths of the near-duplicates merged into this hit.
        rows: the values of each table row of the image, if it has more
            than one.
        stored_image: path of the copy of the image in the folder of the index, or
            None. Only indexes that were made from embeddings have copies.

    Example:

    >>> Hit(1, 0.4, 7, "a.jpg", 0.63, stored_image="index/images/000000.jpg").file
    'index/images/000000.jpg'
    """

    rank: int
    score: float | None
    id: int
    path: str
    relevance: float | None
    captions: list[str] = dataclasses.field(default_factory=list)
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    duplicates: list[str] = dataclasses.field(default_factory=list)
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stored_image: str | None = None

    @property
    def file(self) -> str:
        """Path of the image file to open."""
        return self.stored_image or self.path

    def as_json(self) -> dict[str, Any]:
        """Returns the attributes for JSON."""
        # `dataclasses.asdict` would copy all values, which takes longer than a search.
        return dict(vars(self))


@dataclasses.dataclass(frozen=True, slots=True)
class ImageDetails:
    """Attributes of an image in the index. `Hit` documents them."""

    id: int
    path: str
    captions: list[str]
    columns: dict[str, Any]
    rows: list[dict[str, Any]]
    stored_image: str | None


class DetailsCache:
    """Details of the images of recent searches, which several threads may use."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        # Version of the index, and details by row. They are replaced together, so that
        # no thread combines a new version with the rows of an old one.
        self._cached: tuple[Any, dict[int, ImageDetails]] = (None, {})

    def of_rows(self, rows: Sequence[int]) -> dict[int, ImageDetails]:
        """Returns a dict from row to details, without rows that have no image."""
        # A change of the index after this line also changes the version, so the next
        # call reads everything again.
        version = self._store.database.version
        cached_version, cached = self._cached
        if cached_version != version or len(cached) > CACHED_IMAGES:
            cached = {}
            self._cached = version, cached
        missing = [row for row in rows if row not in cached]
        if missing:
            images = self._store.images_of_rows(missing)
            cached |= dict(zip(images, self.of_images(images.values()), strict=True))
        return {row: cached[row] for row in rows if row in cached}

    def of_images(self, images: Iterable[dict[str, Any]]) -> list[ImageDetails]:
        """Returns the details of images whose columns are already read."""
        images = list(images)
        rows = self._store.tables.rows_of([image["id"] for image in images])
        folder = self._store.folder
        return [
            _details_of(image, rows.get(image["id"], []), folder) for image in images
        ]


def make_hit(
    details: ImageDetails,
    rank: int,
    score: float | None = None,
    probability: float | None = None,
    copies: Sequence[str] = (),
) -> Hit:
    """Returns a hit with values of its own, because the details are shared."""
    return Hit(
        rank=rank,
        score=None if score is None else round(score, 6),
        id=details.id,
        path=details.path,
        relevance=probability,
        captions=list(details.captions),
        columns=dict(details.columns),
        duplicates=list(copies),
        rows=[dict(row) for row in details.rows],
        stored_image=details.stored_image,
    )


def _details_of(
    image: dict[str, Any], rows: list[dict[str, Any]], folder: Any
) -> ImageDetails:
    columns = {
        name: image[name]
        for name in INDEX_COLUMNS
        if name not in ("path", "captions") and image[name] is not None
    }
    # The order is reversed so that the values of the first row take precedence.
    for row in reversed(rows):
        columns |= row
    stored = stored_image_of(image, folder)
    return ImageDetails(
        id=image["id"],
        path=path_of_image(image),
        captions=json.loads(image["captions"] or "[]"),
        columns=columns,
        rows=rows if len(rows) > 1 else [],
        stored_image=None if stored is None else str(stored),
    )


def heights_and_crowd(
    scores: np.ndarray, sample_scores: np.ndarray, count: int
) -> tuple[np.ndarray, float]:
    """Returns the two values from which `relevance` estimates probabilities.

    A cosine similarity has no absolute scale, so both values compare scores with those
    of the index. The height of a score is its number of standard deviations above the
    mean. The crowd is the logarithm of the sum of exp(1.5 · height) over the images of
    the index. It grows with the number of images that have a high score.

    Args:
        scores: float (k,), scores of the hits.
        sample_scores: float (n,), scores of images from all parts of the index.
        count: number of images in the index.

    Returns:
        float (k,), the heights, and float, the crowd.

    >>> heights, _ = heights_and_crowd(np.array([0.6]), np.array([0.0, 0.1, 0.2]), 3)
    >>> heights.round(2)
    array([6.12])
    """
    mean = float(sample_scores.mean())
    deviation = max(float(sample_scores.std()), 1e-6)
    sample_heights = (np.asarray(sample_scores, float) - mean) / deviation
    total = count * np.exp(RELEVANCE_WEIGHTS["steepness"] * sample_heights).mean()
    return (np.asarray(scores, float) - mean) / deviation, float(np.log(total))


def relevance(
    scores: np.ndarray, sample_scores: np.ndarray, count: int
) -> list[float] | list[None]:
    """Estimates for each score the probability that the image is right.

    The logit of the probability is a weighted sum of the height and the crowd (see
    `heights_and_crowd`), so a higher score never has a lower probability. The estimate
    applies to words that describe one image or a few. If the words describe many
    images, none of them stands out and the estimates are too low.

    The arguments are those of `heights_and_crowd`.

    Returns:
        list of float from 0.01 to 0.99. None for each score if `count` is less than 20,
        because too few scores exist to compare with.

    >>> relevance(np.array([0.6, 0.5, 0.1]), np.array([0.0, 0.1, 0.2]), 100)
    [0.99, 0.93, 0.01]
    """
    weights = RELEVANCE_WEIGHTS
    if count < weights["fewest_images"]:
        return [None] * len(scores)
    heights, crowd = heights_and_crowd(scores, sample_scores, count)
    logits = weights["height"] * heights + weights["crowd"] * crowd + weights["bias"]
    # Probabilities of 1% and 99%. More extreme ones were not measured.
    probabilities = 1 / (1 + np.exp(-np.clip(logits, -4.6, 4.6)))
    return [round(float(value), 2) for value in probabilities]
