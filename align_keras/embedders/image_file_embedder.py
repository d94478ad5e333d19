"""Embedder with an exported LiteRT tower for images and Keras for texts.

A quantized tower is the fastest image tower of a model.
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
        name: name that opens the model again, or None for a model in memory.
        path: path of the file that `align-keras export litert` wrote for this model.

    Raises:
        InputError: if the file was exported from a model with different weights.
    """

    def __init__(self, align: ALIGN, name: str | None, path: str) -> None:
        content = pathlib.Path(path).read_bytes()
        _check_same_weights(align, content, path)
        key = hashlib.sha256(content).hexdigest()
        super().__init__(align, name, path, key, _parallel_tower(content))


def _check_same_weights(align: ALIGN, content: bytes, path: str) -> None:
    """Raises unless a file was exported from a model with the same image encoder."""
    from align_keras.export.litert_file import read_tower_metadata

    try:
        encoder_fingerprint = read_tower_metadata(content).get("encoder_fingerprint")
    except (zipfile.BadZipFile, KeyError, ValueError):
        encoder_fingerprint = None
    # Towers are exported from the float32 form of a model.
    if encoder_fingerprint != align.image_encoder.fingerprint("float32"):
        raise InputError(
            "`runtime` must be an image tower that was exported from this model. "
            f"Received: runtime={path}, which has the weights of another model. Export "
            "the tower again with `align-keras export litert`."
        )


def _parallel_tower(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that embeds images in parallel, one per processor core."""
    # This is faster than batches, since the activations of one image fit into the cache
    # of a core.
    from align_keras.export.litert_file import LiteRTTower

    towers = [LiteRTTower(content) for _ in range(os.cpu_count() or 1)]

    def embed_chunk(tower: Any, pixels: np.ndarray) -> list[np.ndarray]:
        return [tower(images=image[None]) for image in pixels]

    def embed(pixels: np.ndarray) -> np.ndarray:
        chunks = np.array_split(pixels, len(towers))
        with concurrent.futures.ThreadPoolExecutor(len(towers)) as pool:
            embedded_chunks = pool.map(embed_chunk, towers, chunks)
            return np.concatenate([row for rows in embedded_chunks for row in rows])

    return embed
