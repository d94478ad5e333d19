"""Tokenizer of ALIGN as a KerasHub layer."""

import inspect
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from align_keras.presets.saving import save_tokenizer
from align_keras.presets.sizes import BuiltinPresets
from align_keras.presets.stored_config import open_part
from align_keras.text import load_vocabulary, save_vocabulary
from align_keras.text.vocabulary import VOCABULARY_FILE
from align_keras.text.wordpiece_tokenizer import WordPieceTokenizer
from align_keras.utils.errors import InputError

# Folders of the modules of Grain that call the layers of a pipeline.
_GRAIN_FOLDERS = (
    os.path.join("grain", "_src", "python", "dataset"),
    os.path.join("grain", "_src", "python", "data_loader"),
)


@keras.saving.register_keras_serializable(package="align_keras")
class ALIGNTokenizer(keras_hub.tokenizers.Tokenizer):
    """Layer that converts captions to padded WordPiece ids.

    The ids equal those of the fast `BertTokenizer` of Hugging Face with
    `truncation=True`, and are computed about ten times as fast. The only differences
    are 116 letters that were added to Unicode after the tables of TensorFlow.

    The tokenizer works eagerly, in `tf.data`, in pipelines of Grain and in an exported
    graph. Without tensorflow-text, such as on Windows, the package `tokenizers`
    computes the ids, and a graph with the tokenizer can't be exported.

    Invalid UTF-8 bytes and control characters are dropped. A special token in a caption
    (`[MASK]`) is converted to the id of that token. A word of more than 100 characters
    becomes `[UNK]`.

    Args:
        vocabulary: the tokens in the order of their ids, or the path
            of a file with one token per line. It must contain `[PAD]`, `[UNK]`,
            `[CLS]`, `[SEP]` and `[MASK]` at any position. None creates a tokenizer
            whose vocabulary `load_assets` or `load_preset_assets` loads.
        sequence_length: ≥ 3, tokens of a caption, including `[CLS]` and `[SEP]`.
        normalization: `"bert_uncased"` or `"bert_cased"`.
        **kwargs: `name` and `dtype`, as for every Keras layer.

    Call arguments:
        inputs: list of str, NumPy array of str or bytes, or string tensor (n,),
            UTF-8. One caption, a str or a scalar, is also accepted.

    Returns:
        dict of `token_ids` and `padding_mask`, int32 (n, sequence_length), or
        (sequence_length,) for a single caption. A row of `token_ids` consists of
        `[CLS]`, the tokens, `[SEP]` and padding with `[PAD]`. `padding_mask` is 0 for
        padding and 1 elsewhere. The values are tensors, or NumPy arrays in a pipeline
        of Grain.

    Raises:
        InputError: if an argument has the wrong type or value.

    References:
        Jia et al. 2021, section 5 (WordPiece, at most 64 tokens).

    Example:

    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "##der"]
    >>> tokenizer = ALIGNTokenizer(vocabulary, sequence_length=6)
    >>> tokenizer(["Redder red"])["token_ids"].numpy().tolist()
    [[2, 5, 6, 5, 3, 0]]
    >>> tokenizer.detokenize([[2, 5, 6, 5, 3, 0]])
    ['redder red']
    """

    presets = BuiltinPresets()

    def __init__(
        self,
        vocabulary: Sequence[str] | str | os.PathLike | None = None,
        sequence_length: int = 64,
        normalization: str = "bert_uncased",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "int32")
        super().__init__(**kwargs)
        # Names of the files that `save_assets` writes. KerasHub reads this attribute.
        self.file_assets = [VOCABULARY_FILE]
        self.normalization = normalization
        self._sequence_length = sequence_length
        self._wordpiece: WordPieceTokenizer | None = None
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = load_vocabulary(vocabulary)
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)
        self.built = True

    def set_vocabulary(self, vocabulary: Sequence[str]) -> None:
        """Replaces the vocabulary.

        Args:
            vocabulary: the tokens in the order of their ids.

        Raises:
            InputError: if a special token is missing or a token is repeated.
        """
        self._wordpiece = WordPieceTokenizer(
            vocabulary, self._sequence_length, self.normalization
        )

    def _require_wordpiece(self) -> WordPieceTokenizer:
        if self._wordpiece is None:
            raise InputError(
                "The tokenizer must have a vocabulary. Received: vocabulary=None. Pass "
                "the vocabulary to ALIGNTokenizer, or call set_vocabulary."
            )
        return self._wordpiece

    @property
    def vocabulary(self) -> list[str]:
        """Tokens in the order of their ids."""
        return self._require_wordpiece().vocabulary

    @property
    def sequence_length(self) -> int:
        """Tokens of a caption, including `[CLS]`, `[SEP]` and padding.

        It can be set to a larger or smaller value.
        """
        return self._sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int) -> None:
        self._sequence_length = value
        if self._wordpiece is not None:
            self.set_vocabulary(self._wordpiece.vocabulary)

    @property
    def in_graph(self) -> bool:
        """True if an exported graph can contain the tokenizer."""
        return self._require_wordpiece().in_graph

    def get_vocabulary(self) -> list[str]:
        """Returns the tokens in the order of their ids."""
        return self.vocabulary

    def vocabulary_size(self) -> int:
        """Returns the number of tokens in the vocabulary."""
        return len(self.vocabulary)

    def id_to_token(self, id: int) -> str:
        """Returns the token of an id."""
        vocabulary = self.vocabulary
        return vocabulary[id]

    def token_to_id(self, token: str) -> int:
        """Returns the id of a token, or the id of `[UNK]` for an unknown token."""
        vocabulary = self.vocabulary
        if token not in vocabulary:
            token = "[UNK]"
        return vocabulary.index(token)

    def tokenize(self, inputs: Any) -> dict[str, tf.Tensor]:
        """Returns `token_ids` and `padding_mask` of captions as tensors."""
        return self._require_wordpiece()(inputs)

    def detokenize(self, inputs: Any) -> list[str] | str:
        """Returns the texts of token ids.

        Texts are normalized, words are separated by one space, and `[PAD]`, `[CLS]` and
        `[SEP]` are left out.

        Args:
            inputs: int array (n, L) or (L,) of token ids, or the dict that `tokenize`
                returns.

        Returns:
            list of str, or a str for a single row.
        """
        token_ids = inputs["token_ids"] if isinstance(inputs, dict) else inputs
        rows = np.asarray(token_ids)
        if rows.ndim == 1:
            return self._text_of(rows)
        return [self._text_of(row) for row in rows]

    def _text_of(self, token_ids: np.ndarray) -> str:
        """Returns the text of one row of token ids."""
        text = ""
        for token in [self.id_to_token(int(token_id)) for token_id in token_ids]:
            if token in ("[PAD]", "[CLS]", "[SEP]"):
                continue
            if token.startswith("##"):
                text += token.removeprefix("##")
            else:
                text += f" {token}"
        return text.strip()

    def call(self, inputs: Any) -> dict[str, Any]:
        tokens = self.tokenize(inputs)
        if tf.executing_eagerly() and is_called_by_grain():
            return {name: values.numpy() for name, values in tokens.items()}
        return tokens

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain JSON."""
        config = super().get_config()
        config["vocabulary"] = None if self._wordpiece is None else self.vocabulary
        config["sequence_length"] = self.sequence_length
        config["normalization"] = self.normalization
        return config

    # === Files ===

    def save_assets(self, dir_path: str | os.PathLike) -> None:
        """Writes `vocabulary.txt` to a folder."""
        save_vocabulary(self.vocabulary, pathlib.Path(dir_path, VOCABULARY_FILE))

    def load_assets(self, dir_path: str | os.PathLike) -> None:
        """Loads the vocabulary from the `vocabulary.txt` of a folder."""
        self.set_vocabulary(load_vocabulary(pathlib.Path(dir_path, VOCABULARY_FILE)))

    def save_to_preset(self, preset_dir: str | os.PathLike) -> None:
        """Writes `tokenizer.json` and `assets/tokenizer/vocabulary.txt` to a folder."""
        save_tokenizer(self, preset_dir)

    @classmethod
    def from_preset(cls, preset: str | os.PathLike, **kwargs: Any) -> "ALIGNTokenizer":
        """Returns the tokenizer of a preset.

        Args:
            preset: as for `ALIGN.from_preset`. The preset must have a
                vocabulary.
            **kwargs: `sequence_length`, `revision` and `token`, as for
                `ALIGN.from_preset`, and for the name of a preset `vocabulary` and
                `normalization`.

        Raises:
            InputError: for the reasons of `ALIGN.from_preset`, or if the preset has no
                vocabulary.

        Example:

        >>> ALIGNTokenizer.from_preset("align_small_en").vocabulary_size()
        30522
        """
        tokenizer = open_part("tokenizer", preset, **kwargs)
        if tokenizer is None:
            raise InputError(
                "preset must have a vocabulary. Received: "
                f"preset={preset}. Pass vocabulary=[…] with the name of a preset."
            )
        return tokenizer

    def __reduce__(self) -> tuple:
        # Grain pickles the tokenizer for its worker processes.
        return type(self).from_config, (self.get_config(),)


def is_called_by_grain() -> bool:
    """Returns True if a function of Grain is on the call stack.

    Keras and KerasHub use the same check, but their function isn't public.
    """
    if "grain" not in sys.modules:
        return False
    frame = inspect.currentframe()
    while frame is not None:
        path = frame.f_code.co_filename
        if any(folder in path for folder in _GRAIN_FOLDERS):
            return True
        frame = frame.f_back
    return False
