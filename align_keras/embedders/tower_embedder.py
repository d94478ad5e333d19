"""Base class of embedders that run an image tower and a text tower."""

import abc
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.text.shortening import shorten_texts
from align_keras.utils.arguments import check_is_sequence, check_texts
from align_keras.utils.errors import InputError

# Maximum image side in the metadata of a tower, in pixels. Such an image takes 200 MB.
MAX_SIDE = 8192
# Tokens that BERT's WordPiece tokenizer needs.
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Number of images that are in memory at a time.
_BATCH_SIZE = 64


class TowerEmbedder(Embedder):
    """Embedder of an image tower and a text tower with metadata about their inputs.

    Args:
        name: name that opens the model again.
        paths: dict from `"image"` and `"text"` to the paths of the towers.
        metadata: dict from `"image"` and `"text"` to the contents of `metadata.json` in
            the towers.

    Raises:
        InputError: if the metadata are damaged.
    """

    # Argument of `align-keras export` that writes the files, for messages.
    export_format: str

    def __init__(
        self,
        name: str,
        paths: dict[str, pathlib.Path],
        metadata: dict[str, dict[str, Any]],
    ) -> None:
        self.name = name
        self.paths = paths
        try:
            image = metadata["image"]["preprocessing"]
            text = metadata["text"]["preprocessing"]
            self.image_size = int(image["image_size"])
            self.resize_to = int(image["resize_to"])
            self.sequence_length = int(text["sequence_length"])
            self.vocabulary_file = str(text["vocabulary_file"])
            self.is_uncased = text["normalization"] == "bert_uncased"
            self.dimension = int(metadata["text"]["outputs"][0]["shape"][-1])
            image_dimension = int(metadata["image"]["outputs"][0]["shape"][-1])
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise self.damaged("text", error) from None
        if not 0 < self.image_size <= self.resize_to <= MAX_SIDE:
            problem = (
                "its metadata must have 0 < image_size <= resize_to <= "
                f"{MAX_SIDE:,} instead of {self.image_size} and {self.resize_to}"
            )
            raise self.damaged("image", problem)
        if image_dimension != self.dimension:
            problem = (
                f"its embeddings must have the length {self.dimension} of those of the "
                f"text tower instead of {image_dimension}"
            )
            raise self.damaged("image", problem)

    @abc.abstractmethod
    def read_vocabulary(self) -> str:
        """Returns the vocabulary in the text tower, with one token per line."""

    @abc.abstractmethod
    def embed_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds cropped images, uint8 arrays (image_size, image_size, 3)."""

    @abc.abstractmethod
    def embed_tokens(self, token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Embeds token ids and their padding mask, int32 (n, length).

        The length is `sequence_length`, unless the tower accepts any length.
        """

    @abc.abstractmethod
    def accepts_any_length(self) -> bool:
        """Returns True if the text tower accepts rows without padding.

        This opens the tower, which checks that the sequence length in its metadata is
        correct.
        """

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        # Text queries are faster without this import.
        import concurrent.futures

        check_is_sequence("images", "paths, bytes or arrays", images)
        rows = [np.zeros((0, self.dimension), np.float32)]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(images), _BATCH_SIZE):
                batch = images[start : start + _BATCH_SIZE]
                rows += pool.map(self._encode_image, batch)
        return np.concatenate(rows)

    def _encode_image(self, image: Any) -> np.ndarray:
        from align_keras.embedders.pixels import square_pixels

        return self.encode_resized([square_pixels(image, self.resize_to)])

    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        if not len(images):
            return np.zeros((0, self.dimension), np.float32)
        start = (self.resize_to - self.image_size) // 2
        window = slice(start, start + self.image_size)
        return self.embed_pixels([image[window, window] for image in images])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        check_texts(texts)
        if not len(texts):
            return np.zeros((0, self.dimension), np.float32)
        accepts_any_length = self.accepts_any_length()
        ids, mask = self._tokenize(texts)
        lengths = np.full(len(ids), self.sequence_length)
        if accepts_any_length:
            # The time of a text tower is proportional to the length of the rows.
            lengths = mask.sum(axis=1)
        embeddings = np.empty((len(ids), self.dimension), np.float32)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            embeddings[rows] = self.embed_tokens(
                ids[rows, :length], mask[rows, :length]
            )
        return embeddings

    def count_tokens(self, texts: Sequence[str]) -> int:
        return int(self._tokenize(texts)[1].sum())

    def _tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns token ids and their padding mask, int32 (n, sequence_length)."""
        short = shorten_texts(texts, self.sequence_length, self.is_uncased)
        encodings = self._tokenizer.encode_batch(short)
        ids = np.array([encoding.ids for encoding in encodings], np.int32)
        mask = np.array([encoding.attention_mask for encoding in encodings], np.int32)
        return ids, mask

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import BertWordPieceTokenizer

        # splitlines() would also split at special characters that are tokens.
        tokens = self.read_vocabulary().removesuffix("\n").split("\n")
        vocabulary = {token: row for row, token in enumerate(tokens)}
        for token in _SPECIAL_TOKENS:
            if token not in vocabulary:
                problem = f"its vocabulary must have the token {token}"
                raise self.damaged("text", problem)
        tokenizer = BertWordPieceTokenizer(
            vocabulary, lowercase=self.is_uncased, strip_accents=self.is_uncased
        )
        tokenizer.enable_truncation(self.sequence_length)
        tokenizer.enable_padding(
            length=self.sequence_length, pad_id=vocabulary["[PAD]"]
        )
        return tokenizer

    def check_shape(self, kind: str, name: str, shape: tuple[Any, ...]) -> None:
        """Raises if the metadata of a tower do not match the shape of its input.

        Args:
            kind: `"image"` or `"text"`.
            name: name of the input.
            shape: shape of the input. Open dimensions are not int.
        """
        settings = {
            "image": ("image_size", self.image_size),
            "text": ("sequence_length", self.sequence_length),
        }
        setting, size = settings[kind]
        is_open = len(shape) >= 2 and not isinstance(shape[1], int)
        if len(shape) < 2 or not (is_open or shape[1] == size):
            problem = (
                f"the {setting} in its metadata is {size} and must match the shape "
                f"{shape} of its input {name}"
            )
            raise self.damaged(kind, problem)

    def damaged(self, kind: str, reason: object) -> InputError:
        """Returns the error for a tower file that cannot be used."""
        return damaged_tower(self.paths[kind], self.export_format, reason)


def damaged_tower(path: pathlib.Path, export_format: str, reason: object) -> InputError:
    """Returns the error for a tower file that cannot be used."""
    line = " ".join(str(reason).split())[:160]
    return InputError(
        f"`model` must be towers that `align-keras export {export_format}` wrote. "
        f"Received: {path} ({line}). Export the model again."
    )


def missing_tower(
    path: pathlib.Path, export_format: str, names: dict[str, str]
) -> InputError:
    """Returns the error for a folder that has only one of the two towers."""
    return InputError(
        f"`model` must be a folder with {' and '.join(names.values())}. Received: "
        f"{path.parent} without {path.name}. Write both with `align-keras export "
        f"{export_format}`."
    )
