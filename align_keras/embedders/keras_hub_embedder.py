"""Embedder of KerasHub's CLIP and SigLIP models."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras_hub
import numpy as np
import tensorflow as tf
from PIL import Image

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.image_transforms import ImageTransform
from align_keras.embedders.locations import ModelLocation
from align_keras.presets.hub import download
from align_keras.presets.layout import (
    CONFIG_FILE,
    IMAGE_CONVERTER_FILE,
    PREPROCESSOR_CONFIG_FILE,
    TOKENIZER_CONFIG,
    file_digests,
)
from align_keras.utils.addresses import is_hub_name
from align_keras.utils.arguments import check_texts
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

# Rows per call of a tower. More rows take more memory and are not faster.
_BATCH_SIZE = 8
# Files of a preset that name classes.
_CONFIG_FILES = (
    CONFIG_FILE,
    PREPROCESSOR_CONFIG_FILE,
    TOKENIZER_CONFIG,
    IMAGE_CONVERTER_FILE,
)


class KerasHubEmbedder(Embedder):
    """Embedder of a KerasHub preset of `CLIPBackbone` or `SigLIPBackbone`.

    Images and texts are prepared by the preset's own preprocessor.

    Args:
        location: `ModelLocation` of the folder. The weights of a model on the Hugging
            Face Hub are downloaded.

    Raises:
        InputError: if a file of the preset is missing or damaged.
    """

    runtime = "keras"

    def __init__(self, location: ModelLocation) -> None:
        self.name = location.name
        self._folder = location.folder
        if is_hub_name(location.name):
            self._folder = download(location.name)
        for name in _CONFIG_FILES:
            self._check_classes(name, read_json(self._folder / name))
        preset = str(self._folder)
        self._backbone = self._load(keras_hub.models.Backbone, preset)
        if isinstance(self._backbone, keras_hub.models.CLIPBackbone):
            kind = keras_hub.models.CLIPPreprocessor
        else:
            kind = keras_hub.models.SigLIPPreprocessor
        self._preprocessor = self._load(kind, preset)
        self._converter = self._preprocessor.image_converter
        if self._converter is None:
            raise self._refused("it has no image converter")
        self.image_size = int(self._backbone.vision_encoder.image_shape[0])
        self.resize_to = self.image_size
        self._text_length = int(self._preprocessor.sequence_length)
        images = tf.TensorSpec((None, *self._backbone.vision_encoder.image_shape))
        self._embed_images = tf.function(
            self._backbone.get_vision_embeddings, input_signature=[images]
        )
        tokens = tf.TensorSpec((None, self._text_length), tf.int32)
        self._embed_texts = tf.function(
            self._backbone.get_text_embeddings, input_signature=[tokens]
        )
        self.dimension = len(self.encode_texts(["a"])[0])
        self.fingerprint = _digest(self._folder)
        self.image_fingerprint = self.fingerprint
        self.text_fingerprint = self.fingerprint

    @property
    def image_transform(self) -> ImageTransform:
        return _ConverterResizing(self._converter.resizing)

    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self._run(self._embed_images, self._scaled_pixels, images)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        check_texts(texts)
        return self._run(self._embed_texts, self._token_ids, texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        check_texts(texts)
        return int(self._tokenize(texts)["padding_mask"].sum()) if len(texts) else 0

    def _run(
        self,
        tower: Callable[[np.ndarray], tf.Tensor],
        prepare: Callable[[Sequence[Any]], np.ndarray],
        rows: Sequence[Any],
    ) -> np.ndarray:
        """Embeds images or texts, and scales the embeddings to unit length."""
        if not len(rows):
            return np.zeros((0, self.dimension), np.float32)
        batches = [
            np.asarray(tower(prepare(rows[start : start + _BATCH_SIZE])), np.float32)
            for start in range(0, len(rows), _BATCH_SIZE)
        ]
        embeddings = np.concatenate(batches)
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings / np.maximum(lengths, 1e-12)

    def _scaled_pixels(self, images: Sequence[np.ndarray]) -> np.ndarray:
        # The converter does not change the size of images that have its size.
        return np.asarray(self._converter(np.stack(images)), np.float32)

    def _token_ids(self, texts: Sequence[str]) -> np.ndarray:
        return self._tokenize(texts)["token_ids"]

    def _tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        # The preprocessor of SigLIP requires an image to tokenize texts.
        image = np.zeros((1, 1, 1, 3), np.uint8)
        prompts = [text.encode("utf-8", "replace").decode() for text in texts]
        features = self._preprocessor({"prompts": prompts, "images": image})
        return {
            name: np.asarray(features[name]) for name in ("token_ids", "padding_mask")
        }

    def _check_classes(self, file: str, value: Any) -> None:
        """Raises InputError for a class of another package, which could run code."""
        if isinstance(value, list):
            for item in value:
                self._check_classes(file, item)
        if not isinstance(value, dict):
            return
        if "class_name" in value:
            name = f"{value.get('module')}.{value['class_name']}"
            is_dtype = name.startswith("keras.") and "DTypePolicy" in name
            if not is_dtype and not name.startswith("keras_hub.src."):
                raise self._refused(f"{file} has the class {name}")
        for item in value.values():
            self._check_classes(file, item)

    def _load(self, kind: Any, preset: str) -> Any:
        try:
            return kind.from_preset(preset)
        # KerasHub and Keras raise many classes for missing and damaged files.
        except Exception as error:
            raise self._refused(error) from None

    def _refused(self, reason: object) -> InputError:
        line = " ".join(str(reason).split())[:160]
        return InputError(
            "`model` must be a complete KerasHub preset with weights, tokenizer, image "
            f"converter and only classes of KerasHub. Received: {self._folder} "
            f"({line}). Download the model again, or write it with the "
            "`save_to_preset` of its backbone and of its preprocessor."
        )


@dataclasses.dataclass(frozen=True)
class _ConverterResizing:
    """Resizes an image with the layer of an image converter.

    Args:
        layer: `keras.layers.Resizing`.
    """

    layer: Any

    @property
    def shorter_side(self) -> None:
        # KerasHub resizes the complete image.
        return None

    def __call__(self, image: Image.Image) -> np.ndarray:
        # Resized pixels of uint8 are rounded and clipped, as by Pillow in the training
        # of these models.
        return np.asarray(self.layer(np.asarray(image)))


def _digest(folder: pathlib.Path) -> str:
    """Returns a digest of the files of a preset that change its embeddings."""
    files = [folder / name for name in _CONFIG_FILES]
    files += [*folder.glob("model*.weights.*"), *folder.glob("assets/**/*")]
    names = {file.relative_to(folder).as_posix() for file in files if file.is_file()}
    digests = sorted(file_digests(folder, names).items())
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]
