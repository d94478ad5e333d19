"""Base class of embedders that run an image tower and a text tower."""

import abc
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.text.shortening import shorten_texts
from align_keras.utils.arguments import check_texts
from align_keras.utils.errors import InputError

# Maximum image side and length of a caption in the metadata of a tower, in pixels and
# tokens. Such an image takes 200 MB.
_MAX_SIDE = 8192
_MAX_TOKENS = 8192


class TowerEmbedder(Embedder):
    """Embedder of an image tower and a text tower with metadata about their inputs.

    Args:
        name: name that opens the model again.
        paths: dict from `"image"` and `"text"` to the paths of the towers.
        metadata: dict from `"image"` and `"text"` to the contents of `metadata.json` in
            the towers.

    Raises:
        InputError: if the metadata are those of other files or of two models.
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
            self.image_size = image["image_size"]
            self.resize_to = image["resize_to"]
            self.sequence_length = text["sequence_length"]
            self.vocabulary_file = text["vocabulary_file"]
            self.is_uncased = text["normalization"] == "bert_uncased"
            self.dimension = metadata["text"]["outputs"][0]["shape"][-1]
            image_dimension = metadata["image"]["outputs"][0]["shape"][-1]
        except (LookupError, TypeError) as error:
            raise foreign_tower(paths["text"], self.export_format, error) from None
        if not 0 < self.image_size <= self.resize_to <= _MAX_SIDE:
            problem = f"its images have {self.resize_to} pixels per side"
            raise foreign_tower(paths["image"], self.export_format, problem)
        if not 0 < self.sequence_length <= _MAX_TOKENS:
            problem = f"its captions have {self.sequence_length} tokens"
            raise foreign_tower(paths["text"], self.export_format, problem)
        if image_dimension != self.dimension:
            problem = (
                f"its embeddings must have the length {self.dimension} of those of the "
                f"text tower instead of {image_dimension}"
            )
            raise foreign_tower(paths["image"], self.export_format, problem)

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
        """Returns True if the text tower accepts rows without padding."""

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
        for length in sorted(set(lengths.tolist())):
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
        tokenizer = BertWordPieceTokenizer(
            vocabulary, lowercase=self.is_uncased, strip_accents=self.is_uncased
        )
        tokenizer.enable_truncation(self.sequence_length)
        tokenizer.enable_padding(
            length=self.sequence_length, pad_id=vocabulary["[PAD]"]
        )
        return tokenizer


def foreign_tower(path: pathlib.Path, export_format: str, reason: object) -> InputError:
    """Returns the error for a file that is not a tower of the same export."""
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
