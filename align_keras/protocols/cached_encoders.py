"""A model's encode functions, answered from the cache where they can be."""

import functools
import os
import pathlib

from align_keras.protocols.embedding_cache import EmbeddingCache
from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say

# Names of unreadable pictures that are told.
_NAMED = 5


def default_cache():
    """Returns the folder of embeddings where none is named."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home, "align_keras", "embeddings")


class CachedEncoders:
    """The encode functions of a model, with their results kept on disk.

    The model is opened when it is first asked for, after the data are read.

    Args:
        open_model: function without arguments that returns an `OpenedModel`.
        directory: `pathlib.Path`, the cache of all models.
    """

    def __init__(self, open_model, directory):
        self._open_model, self._directory = open_model, directory

    @functools.cached_property
    def model(self):
        """The `OpenedModel`."""
        return self._open_model()

    @functools.cached_property
    def _images(self):
        folder = self._directory / f"image-{self.model.image_fingerprint}"
        return EmbeddingCache(folder, self.model.encode_images, 256)

    @functools.cached_property
    def _texts(self):
        folder = self._directory / f"text-{self.model.text_fingerprint}"
        return EmbeddingCache(folder, self.model.encode_texts)

    def readable_images(self, images):
        """Embeds pictures, and leaves out those that can't be decoded.

        Args:
            images: re-iterable with a length, of paths (str), encoded pictures or
                uint8 arrays.

        Returns:
            float32 array (readable, d) and int64 array (readable,), the rows of
            `images` that they come from.

        Raises:
            InputError: if none can be read.
        """
        with progress_bar("embedding pictures", "pictures", len(images)) as bar:
            embeddings, rows = self._images.readable(_ByContent(images), bar.advance)
        lost = len(images) - len(rows)
        if lost:
            readable = set(rows.tolist())
            names = [
                item if isinstance(item, str) else f"picture {row}"
                for row, item in enumerate(images)
                if row not in readable
            ]
            say(
                f"{lost} of {len(images)} pictures can't be decoded and are left out: "
                f"{', '.join(names[:_NAMED])}{', …' if lost > _NAMED else ''}"
            )
        if not len(rows):
            raise InputError(
                f"none of the {len(images)} pictures can be decoded; check that they "
                "are JPEG, PNG, GIF, BMP or WebP files."
            )
        return embeddings, rows

    def texts(self, texts):
        """Embeds captions: float32 array (n, d)."""
        with progress_bar("embedding texts", "texts", len(texts)) as bar:
            return self._texts(texts, bar.advance)


class _ByContent:
    """Pictures one after another, paths as `pathlib.Path`."""

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def __iter__(self):
        for image in self._images:
            yield pathlib.Path(image) if isinstance(image, str) else image
