"""Tokenizer of ALIGN as a KerasHub layer."""

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

import keras
import keras_hub
import tensorflow as tf

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
        vocabulary: sequence of str, the tokens in the order of their ids. It must
            contain `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` and `[MASK]` at any position.
        sequence_length: int ≥ 3, tokens of a caption, including `[CLS]` and `[SEP]`.
        normalization: str, `"bert_uncased"` or `"bert_cased"`.
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
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        sequence_length: int = 64,
        normalization: str = "bert_uncased",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "int32")
        super().__init__(**kwargs)
        self._wordpiece = WordPieceTokenizer(vocabulary, sequence_length, normalization)
        self.built = True

    @property
    def vocabulary(self) -> list[str]:
        """Tokens in the order of their ids."""
        return self._wordpiece.vocabulary

    @property
    def sequence_length(self) -> int:
        """Tokens of a caption, including `[CLS]`, `[SEP]` and padding."""
        return self._wordpiece.sequence_length

    @property
    def normalization(self) -> str:
        """Normalization of captions before WordPiece."""
        return self._wordpiece.normalization

    @property
    def in_graph(self) -> bool:
        """True if an exported graph can contain the tokenizer."""
        return self._wordpiece.in_graph

    def get_vocabulary(self) -> list[str]:
        """Returns the tokens in the order of their ids."""
        return self.vocabulary

    def vocabulary_size(self) -> int:
        """Returns the number of tokens in the vocabulary."""
        return len(self._wordpiece.vocabulary)

    def id_to_token(self, id: int) -> str:
        """Returns the token of an id."""
        vocabulary = self.vocabulary
        if not 0 <= id < len(vocabulary):
            raise InputError(
                f"`id` must be in the range [0, {len(vocabulary) - 1}]. "
                f"Received: id={id}. Check the vocabulary of the tokenizer."
            )
        return vocabulary[id]

    def token_to_id(self, token: str) -> int:
        """Returns the id of a token, or the id of `[UNK]` for an unknown token."""
        vocabulary = self.vocabulary
        if token not in vocabulary:
            token = "[UNK]"
        return vocabulary.index(token)

    def tokenize(self, inputs: Any) -> dict[str, tf.Tensor]:
        """Returns `token_ids` and `padding_mask` of captions as tensors."""
        return self._wordpiece(inputs)

    def call(self, inputs: Any) -> dict[str, Any]:
        tokens = self.tokenize(inputs)
        if tf.executing_eagerly() and is_called_by_grain():
            return {name: values.numpy() for name, values in tokens.items()}
        return tokens

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain JSON."""
        config = super().get_config()
        config["vocabulary"] = self.vocabulary
        config["sequence_length"] = self.sequence_length
        config["normalization"] = self.normalization
        return config

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
