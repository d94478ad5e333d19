"""Embedder of LiteRT towers, which opens in milliseconds without TensorFlow."""

import hashlib
import json
import pathlib
import threading
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.embedders.locations import LITERT_FILES, ModelLocation
from align_keras.embedders.tower_embedder import (
    TowerEmbedder,
    foreign_tower,
    missing_tower,
)
from align_keras.utils.errors import InputError

# Maximum size of the vocabulary and of the metadata in a tower, in bytes. The
# multilingual vocabulary of BERT has 1 MB. The limit is necessary since a compressed
# file of 400 KB can expand to 400 MB.
_MAX_MEMBER = 32 * 2**20
_FORMAT = "litert"
# Number of texts per call of a resizable tower.
_TEXTS_PER_CALL = 16


class LiteRTEmbedder(TowerEmbedder):
    """Embedder that runs `image.tflite` and `text.tflite` with LiteRT.

    Several threads may embed in parallel. Each thread has separate interpreters.

    Args:
        location: `ModelLocation` of the folder.

    Raises:
        InputError: if a tower is missing or has no metadata.
    """

    runtime = "litert"
    export_format = _FORMAT

    def __init__(self, location: ModelLocation) -> None:
        folder = location.folder
        paths = {kind: folder / name for kind, name in LITERT_FILES.items()}
        metadata = {kind: _read_metadata(path) for kind, path in paths.items()}
        super().__init__(location.name, paths, metadata)
        sizes = [path.stat().st_size for path in paths.values()]
        # The metadata contain a digest of the weights, so the flatbuffers need not
        # be read.
        content = json.dumps([metadata, sizes], sort_keys=True)
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.image_fingerprint = self.fingerprint
        self.text_fingerprint = self.fingerprint
        self._threads = threading.local()

    def embed_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        rows = [
            self._tower("image")(images=image[None].astype(np.float32))
            for image in pixels
        ]
        return np.concatenate(rows)

    def embed_tokens(self, token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        tower = self._tower("text")
        open_rows, _ = tower.open_inputs["token_ids"]
        size = _TEXTS_PER_CALL if open_rows == -1 else 1
        batches = [
            tower(
                token_ids=token_ids[start : start + size],
                padding_mask=mask[start : start + size],
            )
            for start in range(0, len(token_ids), size)
        ]
        return np.concatenate(batches)

    def accepts_any_length(self) -> bool:
        _, open_length = self._tower("text").open_inputs["token_ids"]
        return open_length == -1

    def read_vocabulary(self) -> str:
        with zipfile.ZipFile(self.paths["text"]) as archive:
            return _read_member(archive, self.vocabulary_file).decode()

    def _tower(self, kind: str) -> Any:
        """Returns the interpreter of a tower for the current thread."""
        tower = getattr(self._threads, kind, None)
        if tower is not None:
            return tower
        from align_keras.export.litert_file import LiteRTTower

        tower = LiteRTTower(self.paths[kind])
        setattr(self._threads, kind, tower)
        return tower


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns the content of a member, or raises if it exceeds `_MAX_MEMBER` bytes."""
    # The limit applies to the content that was read, since a header can state a wrong
    # size.
    with archive.open(name) as file:
        content = file.read(_MAX_MEMBER + 1)
    if len(content) > _MAX_MEMBER:
        raise InputError(
            f"{name} of a tower must have at most {_MAX_MEMBER:,} bytes. Received: "
            f"{archive.filename}."
        )
    return content


def _read_metadata(path: pathlib.Path) -> dict[str, Any]:
    """Returns the metadata in a tower without reading its flatbuffer."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(_read_member(archive, "metadata.json"))
    except FileNotFoundError:
        raise missing_tower(path, _FORMAT, LITERT_FILES) from None
    except (zipfile.BadZipFile, KeyError) as error:
        raise foreign_tower(path, _FORMAT, error) from None
