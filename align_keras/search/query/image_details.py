"""The part of a hit that does not depend on the query, cached until the index changes.

Reading it from the database takes longer than ranking the images of a small index.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from align_keras.search.index.folder_files import damage_error, stored_image_of
from align_keras.search.index.schema import INDEX_COLUMNS, path_of_image

# Number of images whose details are cached. Those of an image without captions take
# about 1 kB.
CACHED_IMAGES = 10_000


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
    """Details of the images that were found recently.

    Several threads may use the cache.

    Args:
        store: store of the index.
        size: int, number of cached images above which the cache is emptied.
    """

    def __init__(self, store: Any, size: int = CACHED_IMAGES) -> None:
        self._store = store
        self._size = size
        # Version of the index, and details by row. They are replaced together, so that
        # no thread combines a new version with the rows of an old one.
        self._cached: tuple[Any, dict[int, ImageDetails]] = (None, {})

    def of_rows(self, rows: Sequence[int]) -> dict[int, ImageDetails]:
        """Returns a dict from row to details, without rows that have no image."""
        # A change of the index after this line also changes the version, so the next
        # call reads everything again.
        version = self._store.database.version
        cached_version, cached = self._cached
        if cached_version != version or len(cached) > self._size:
            cached = {}
            self._cached = version, cached
        missing = [row for row in rows if row not in cached]
        if missing:
            images = self._store.images_of_rows(missing)
            cached |= dict(zip(images, self.of_images(images.values()), strict=True))
        return {row: cached[row] for row in rows if row in cached}

    def of_images(self, images: Iterable[dict[str, Any]]) -> list[ImageDetails]:
        """Returns the details of images that are already read.

        Args:
            images: iterable of dict, columns of images from the store.
        """
        images = list(images)
        rows = self._store.tables.rows_of([image["id"] for image in images])
        folder = self._store.folder
        return [
            _details_of(image, rows.get(image["id"], []), folder) for image in images
        ]


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
        captions=_captions_of(image, folder),
        columns=columns,
        rows=rows if len(rows) > 1 else [],
        stored_image=None if stored is None else str(stored),
    )


def _captions_of(image: dict[str, Any], folder: Any) -> list[str]:
    if image["captions"] in (None, "", "[]"):
        return []
    try:
        captions = json.loads(image["captions"])
    except (TypeError, ValueError):
        captions = None
    is_list = isinstance(captions, list)
    if not is_list or not all(isinstance(caption, str) for caption in captions):
        reason = f"the captions of image {image['id']} are invalid"
        raise damage_error(folder, reason)
    return captions
