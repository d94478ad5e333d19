"""Embedder whose images an exported LiteRT tower embeds, and whose texts Keras embeds.

The tower may be quantized, which makes it the fastest image tower of a model.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from align_keras.embedders.keras_embedder import KerasEmbedder
from align_keras.models import ALIGN
from align_keras.utils.errors import InputError


class ImageFileEmbedder(KerasEmbedder):
    """Embedder of an `ALIGN` whose image tower is a `.tflite` file.

    Args:
        align: `ALIGN`.
        name: str, the name that opens the model again, or None for a model in memory.
        path: path of the file that `align-keras export litert` made of this model.

    Raises:
        InputError: if the file is of another model or of other weights.
    """

    def __init__(self, align: ALIGN, name: str | None, path: str) -> None:
        content = pathlib.Path(path).read_bytes()
        _check_made_of(align, content, path)
        key = hashlib.sha256(content).hexdigest()
        super().__init__(align, name, path, key, _parallel_tower(content))


def _check_made_of(align: ALIGN, content: bytes, path: str) -> None:
    from align_keras.export.litert_file import read_tower_metadata

    try:
        encoder_fingerprint = read_tower_metadata(content).get("encoder_fingerprint")
    except (zipfile.BadZipFile, KeyError, ValueError):
        encoder_fingerprint = None
    if encoder_fingerprint != align.image_encoder.fingerprint():
        raise InputError(
            "runtime must be the file of an image tower of just this model. Received: "
            f"{path}, which is of another model or of other weights. Write it again "
            "by `align-keras export litert`."
        )


def _parallel_tower(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Opens a tower that embeds one image at a time on each processor.

    The activations of one image fit a processor's cache.
    """
    from align_keras.export.litert_file import LiteRTTower

    towers = [LiteRTTower(content) for _ in range(os.cpu_count() or 1)]

    def embed_part(tower: Any, pixels: np.ndarray) -> list[np.ndarray]:
        return [tower(images=image[None]) for image in pixels]

    def embed(pixels: np.ndarray) -> np.ndarray:
        with concurrent.futures.ThreadPoolExecutor(len(towers)) as pool:
            parts = pool.map(embed_part, towers, np.array_split(pixels, len(towers)))
            return np.concatenate([row for part in parts for row in part])

    return embed
