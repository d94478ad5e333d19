"""Embedder of an exported SavedModel."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.locations import ModelLocation, find_saved_model
from align_keras.embedders.pixels import as_png
from align_keras.text.shortening import shorten_texts
from align_keras.text.tensorflow_text import check_tensorflow_text
from align_keras.utils.arguments import check_is_sequence, check_texts
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS, read_json, read_regular
from align_keras.utils.pillow_images import graph_image


@dataclasses.dataclass(frozen=True)
class _Signature:
    """Names of a signature, its input and its output in an export."""

    name: str
    argument: str
    output: str


_IMAGES = _Signature("encode_image", "image_bytes", "image_embedding")
_TEXTS = _Signature("encode_text", "captions", "text_embedding")
# Number of images or captions in a call of the SavedModel.
_BATCH_SIZE = 64


class SavedModelEmbedder(Embedder):
    """Embedder of a SavedModel.

    The SavedModel must have at least one of two signatures. `encode_image` computes
    `image_embedding` from `image_bytes`, string (n,). `encode_text` computes
    `text_embedding` from `captions`, string (n,). This class needs TensorFlow, and
    tensorflow-text for texts, but not the code that built the model.

    Args:
        location: `ModelLocation` of a folder that `export_saved_model` wrote, or of
            one of its SavedModels.

    Attributes:
        directory: path of the SavedModel.

    Raises:
        InputError: if the folder is not an export of align_keras.
    """

    runtime = "saved_model"

    def __init__(self, location: ModelLocation) -> None:
        from align_keras.images import crop_size_to_resize_size

        self.name = location.name
        self.directory = find_saved_model(location.folder)
        self._tensorflow = _tensorflow_with_text_ops()
        try:
            # The model must stay alive, since signatures do not reference variables.
            self._model = self._tensorflow.saved_model.load(str(self.directory))
        except RuntimeError:
            # TensorFlow raises this class for an unknown operation.
            if has_unknown_operations(self._tensorflow, self.directory):
                check_tensorflow_text(f"The export {self.directory}")
            raise
        # TensorFlow uses all cores for a call, so parallel calls would not be faster.
        self._lock = threading.Lock()
        self.fingerprint = saved_model_digest(self.directory)
        self.image_fingerprint = self.fingerprint
        self.text_fingerprint = self.fingerprint
        self._preprocessing = _read_preprocessing(self.directory)
        # A SavedModel of captions has no image size.
        image_settings = self._preprocessing.get("image", {"image_size": 0})
        self.image_size = image_settings["image_size"]
        # The SavedModel does not resize images of this side again, so the embedding of
        # a resized image equals that of its file.
        self.resize_to = crop_size_to_resize_size(self.image_size)
        self.dimension = self._read_dimension()

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        check_is_sequence("images", "paths or bytes", images)
        self._check_signature(_IMAGES)
        names: list[str] = []
        contents: list[bytes] = []
        for position, image in enumerate(images):
            if isinstance(image, np.ndarray):
                names.append(f"image {position}")
                contents.append(as_png(image))
            elif isinstance(image, bytes):
                names.append(f"image {position}")
                contents.append(graph_image(image))
            else:
                names.append(os.fspath(image))
                contents.append(graph_image(read_regular(image)))
        return self._encode(_IMAGES, contents, names)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        check_texts(texts)
        return self._encode(_TEXTS, self._shorten(texts), texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        tokens = self._model.tokenize(self._tensorflow.constant(self._shorten(texts)))
        return int(np.sum(tokens["padding_mask"]))

    def _shorten(self, texts: Sequence[str]) -> list[bytes]:
        """Returns texts with the same tokens in UTF-8."""
        self._check_signature(_TEXTS)
        settings = self._preprocessing["text"]
        is_uncased = settings["normalization"] == "bert_uncased"
        texts = shorten_texts(texts, settings["sequence_length"], is_uncased)
        return [text.encode("utf-8", "replace") for text in texts]

    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self.encode_images(images)

    def _check_signature(self, signature: _Signature) -> None:
        if signature.name not in self._model.signatures:
            raise InputError(
                f"The export {self.directory} must have the signature "
                f"{signature.name}. Received: "
                f"{', '.join(sorted(self._model.signatures))}. Use the combined export."
            )

    def _encode(
        self,
        signature: _Signature,
        items: Sequence[bytes],
        names: Sequence[str],
    ) -> np.ndarray:
        if not items:
            return np.zeros((0, self.dimension), np.float32)

        embeddings = []
        for start in range(0, len(items), _BATCH_SIZE):
            batch = items[start : start + _BATCH_SIZE]
            strings = self._tensorflow.constant(batch, self._tensorflow.string)
            arguments = {signature.argument: strings}
            with self._lock:
                result = self._model.signatures[signature.name](**arguments)
            embeddings.append(np.asarray(result[signature.output], np.float32))
            is_valid = np.asarray(result.get("valid", True))
            if not is_valid.all():
                raise InputError(
                    f"{names[start + int(np.argmin(is_valid))]} cannot be decoded. "
                    "Omit it, or convert it to JPEG or PNG with at most "
                    f"{MAX_PIXELS:,} pixels."
                )
        return np.concatenate(embeddings)

    def _read_dimension(self) -> int:
        """Returns the length of the embeddings."""
        has_texts = _TEXTS.name in self._model.signatures
        signature = _TEXTS if has_texts else _IMAGES
        outputs = self._model.signatures[signature.name].structured_outputs
        return int(outputs[signature.output].shape[-1])


def saved_model_digest(folder: pathlib.Path) -> str:
    """Returns a digest of the names and contents of the files of a SavedModel."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        # The content of fingerprint.pb differs between exports of the same model.
        if path.name != "fingerprint.pb":
            digest.update(str(path.relative_to(folder)).encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _tensorflow_with_text_ops() -> Any:
    import tensorflow

    # This import registers the operations of the tokenizer in the graph. SavedModels
    # that only embed images load without them.
    with contextlib.suppress(ImportError):
        import tensorflow_text  # noqa: F401
    return tensorflow


def has_unknown_operations(tensorflow: Any, directory: pathlib.Path) -> bool:
    """Returns True if the graph of a SavedModel has operations of other packages."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((directory / "saved_model.pb").read_bytes())
    return any(
        not hasattr(tensorflow.raw_ops, node.op)
        for meta_graph in saved_model.meta_graphs
        for function in meta_graph.graph_def.library.function
        for node in function.node_def
    )


def _read_preprocessing(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the settings of the preprocessing in `signatures.json`."""
    preprocessing = read_json(folder / "signatures.json").get("preprocessing")
    if preprocessing is None:
        raise InputError(
            f"The export {folder} must have the preprocessing of its model in "
            "signatures.json. Write the export again with `align-keras export`."
        )
    return preprocessing
