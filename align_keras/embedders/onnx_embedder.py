"""Embedder of ONNX towers, which runs without TensorFlow."""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.embedders.locations import ONNX_FILES, ModelLocation
from align_keras.embedders.tower_embedder import (
    TowerEmbedder,
    foreign_tower,
    missing_tower,
)

_FORMAT = "onnx"
# Number of rows per batch. Larger batches need more memory and are not faster.
_BATCH_SIZE = 64


class ONNXEmbedder(TowerEmbedder):
    """Embedder that runs `image.onnx` and `text.onnx` with ONNX Runtime.

    Args:
        location: `ModelLocation` of the folder.

    Raises:
        InputError: if a tower is missing or has no metadata.
    """

    runtime = "onnx"
    export_format = _FORMAT

    def __init__(self, location: ModelLocation) -> None:
        folder = location.folder
        paths = {kind: folder / name for kind, name in ONNX_FILES.items()}
        self._sessions = {kind: _open_session(path) for kind, path in paths.items()}
        metadata = {kind: self._read_metadata(kind, paths[kind]) for kind in paths}
        super().__init__(location.name, paths, metadata)
        _, length = self._sessions["text"].get_inputs()[0].shape
        # An open dimension has a name instead of a number.
        self._is_length_open = not isinstance(length, int)
        digest = hashlib.sha256()
        for path in paths.values():
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        self.fingerprint = digest.hexdigest()[:16]
        self.image_fingerprint = self.fingerprint
        self.text_fingerprint = self.fingerprint

    def embed_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        batches = [
            self._run("image", images=np.stack(pixels[start : start + _BATCH_SIZE]))
            for start in range(0, len(pixels), _BATCH_SIZE)
        ]
        return np.concatenate(batches)

    def embed_tokens(self, token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        batches = [
            self._run(
                "text",
                token_ids=token_ids[start : start + _BATCH_SIZE],
                padding_mask=mask[start : start + _BATCH_SIZE],
            )
            for start in range(0, len(token_ids), _BATCH_SIZE)
        ]
        return np.concatenate(batches)

    def accepts_any_length(self) -> bool:
        return self._is_length_open

    def read_vocabulary(self) -> str:
        properties = self._sessions["text"].get_modelmeta().custom_metadata_map
        return properties[self.vocabulary_file]

    def _run(self, kind: str, **inputs: np.ndarray) -> np.ndarray:
        if kind == "image":
            inputs = {"images": inputs["images"].astype(np.float32)}
        (embeddings,) = self._sessions[kind].run(None, inputs)
        return np.asarray(embeddings, np.float32)

    def _read_metadata(self, kind: str, path: pathlib.Path) -> dict[str, Any]:
        properties = self._sessions[kind].get_modelmeta().custom_metadata_map
        if "metadata.json" not in properties:
            raise foreign_tower(path, _FORMAT, "it has no metadata.json")
        return json.loads(properties["metadata.json"])


def _open_session(path: pathlib.Path) -> Any:
    if not path.is_file():
        raise missing_tower(path, _FORMAT, ONNX_FILES)
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
