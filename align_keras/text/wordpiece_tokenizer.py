"""Captions to token ids, as graph operations."""

import inspect
import math
import os
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

try:
    import tensorflow_text as tf_text
except ModuleNotFoundError:  # It has no wheels for Windows.
    tf_text = None

from align_keras.text.normalization import mark_special_token, split_words
from align_keras.text.vocabulary import (
    MAX_CHARACTERS_PER_WORD,
    MAX_TOKEN_BYTES,
    SPECIAL_TOKENS,
    check_normalization,
    check_vocabulary,
    is_uncased,
)
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

_GRAIN_FOLDERS = tuple(
    os.path.join("grain", "_src", "python", part) for part in ("dataset", "data_loader")
)
# Of embeddings on disk: raise it where the same caption and vocabulary give other
# token ids.
TOKENIZATION_VERSION = 1


@keras.saving.register_keras_serializable(package="align_keras")
class WordPieceTokenizer(tf.Module):
    """BERT's tokenizer: captions in, padded token ids out.

    The ids are those of Hugging Face's fast `BertTokenizer` with `truncation=True`, at
    about ten times its speed, but for 116 letters that Unicode added later than
    TensorFlow knows. It runs eagerly, in `tf.data`, in Grain's pipelines and in an
    exported graph. Without tensorflow-text, as on Windows, `tokenizers` computes the
    ids, and no graph with it can be exported.

    Keras can serialize the tokenizer (`keras.saving.serialize_keras_object`), and it
    can be pickled, as Grain's worker processes require.

    Bytes that aren't UTF-8 and control characters are dropped. A special token that is
    written out in a caption (`[MASK]`) becomes that token. A word of more than 100
    characters is `[UNK]`.

    Args:
        vocabulary: the tokens in the order of their ids; holds `[PAD]`, `[UNK]`,
            `[CLS]`, `[SEP]` and `[MASK]` at any place.
        sequence_length: at least 3, tokens a caption, [CLS] and [SEP] included.
        normalization: `"bert_uncased"` or `"bert_cased"`.

    Call arguments:
        captions: list of str, NumPy array of str or bytes, or string tensor (n,),
            UTF-8; or one scalar.

    Returns:
        dict of `token_ids`, int32 (n, sequence_length): `[CLS] … [SEP]`, filled up
        with `[PAD]`; and `padding_mask`, int32 (n, sequence_length), 1 on
        everything but the filling. A scalar caption gives (sequence_length,). Both
        are tensors, and NumPy arrays inside of a Grain pipeline, as of KerasHub's
        tokenizers.

    Raises:
        InputError: if an argument isn't as above.

    References:
        Jia et al. 2021, section 5 (WordPiece, at most 64 tokens).

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "##der"]
    >>> tokenizer = WordPieceTokenizer(vocabulary, sequence_length=6)
    >>> tokenizer(["Redder red"])["token_ids"].numpy().tolist()
    [[2, 5, 6, 5, 3, 0]]
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        sequence_length: int = 64,
        normalization: str = "bert_uncased",
    ):
        super().__init__()
        vocabulary = list(vocabulary)
        check_vocabulary(vocabulary, "vocabulary")
        check_token_lengths(vocabulary)
        remedy = "[CLS], a token and [SEP] are 3, and the paper's is 64"
        check_number("sequence_length", sequence_length, 3, math.inf, True, remedy)
        check_normalization(normalization)
        self._vocabulary = tuple(vocabulary)
        self.sequence_length = int(sequence_length)
        self.normalization = normalization
        special = {
            token: mark_special_token(token, normalization) for token in SPECIAL_TOKENS
        }
        self._unknown = special["[UNK]"]
        self._hugging_face = None
        if tf_text is None:
            self._hugging_face = _hugging_face_tokenizer(
                vocabulary, sequence_length, normalization
            )
            return
        # The model is a constant; built inside someone's graph it would die there.
        with tf.init_scope():
            self._wordpiece = tf_text.FastWordpieceTokenizer(
                [special.get(token, token) for token in vocabulary],
                token_out_type=tf.int32,
                unknown_token=self._unknown,
                # The limit below counts characters, as BERT's does, not bytes.
                max_bytes_per_word=4 * MAX_CHARACTERS_PER_WORD,
                no_pretokenization=True,
            )

    @property
    def vocabulary(self) -> list[str]:
        """The tokens in the order of their ids."""
        return list(self._vocabulary)

    @property
    def in_graph(self) -> bool:
        """Whether an exported graph can hold the tokenizer."""
        return self._hugging_face is None

    def __call__(self, captions):
        tokens = self._tokens(captions)
        if tf.executing_eagerly() and _in_grain_pipeline():
            return {name: values.numpy() for name, values in tokens.items()}
        return tokens

    def _tokens(self, captions):
        """Returns `token_ids` and `padding_mask` as tensors."""
        captions = tf.convert_to_tensor(captions, tf.string)
        if captions.shape.rank == 0:
            batch = self._tokens(captions[tf.newaxis])
            return {name: values[0] for name, values in batch.items()}
        captions = tf.ensure_shape(captions, (None,))
        if not self.in_graph:
            return self._from_hugging_face(captions)
        return self._pad(self._wordpieces(captions))

    def _from_hugging_face(self, captions):
        """What `_pad` does, by Python outside the graph."""

        def encode(captions):
            texts = [text.decode("utf-8", "replace") for text in captions.tolist()]
            found = self._hugging_face.encode_batch(texts)
            rows = [(encoding.ids, encoding.attention_mask) for encoding in found]
            shape = (len(rows), 2, self.sequence_length)
            return np.array(rows, np.int32).reshape(shape)

        both = tf.numpy_function(encode, [captions], tf.int32, stateful=False)
        both = tf.ensure_shape(both, (captions.shape[0], 2, self.sequence_length))
        return {"token_ids": both[:, 0], "padding_mask": both[:, 1]}

    def _wordpieces(self, captions):
        """Ragged int32 (n, tokens), without [CLS] and [SEP]."""
        words = split_words(captions, self.normalization)
        lengths = tf.strings.length(words.flat_values, unit="UTF8_CHAR")
        words = words.with_flat_values(
            tf.where(
                lengths > MAX_CHARACTERS_PER_WORD, self._unknown, words.flat_values
            )
        )
        return self._wordpiece.tokenize(words).merge_dims(1, 2)

    def _pad(self, tokens):
        """Truncates, frames with [CLS] and [SEP], and pads."""
        tokens = tokens[:, : self.sequence_length - 2]
        column = tf.ones((tokens.nrows(), 1), tf.int32)
        framed = tf.concat(
            [self._id("[CLS]") * column, tokens, self._id("[SEP]") * column], axis=1
        )
        token_ids = framed.to_tensor(
            default_value=self._id("[PAD]"), shape=(None, self.sequence_length)
        )
        # Integers, since tf.distribute can't gather booleans.
        padding_mask = tf.sequence_mask(
            framed.row_lengths(), self.sequence_length, dtype=tf.int32
        )
        return {"token_ids": token_ids, "padding_mask": padding_mask}

    def _id(self, token):
        return self._vocabulary.index(token)

    def get_config(self) -> dict:
        """Returns the constructor's arguments, as plain JSON."""
        return {
            "vocabulary": self.vocabulary,
            "sequence_length": self.sequence_length,
            "normalization": self.normalization,
        }

    @classmethod
    def from_config(cls, config: dict) -> "WordPieceTokenizer":
        """Builds the tokenizer that `get_config` describes."""
        return cls(**config)

    def __reduce__(self) -> tuple:
        return type(self).from_config, (self.get_config(),)


def _in_grain_pipeline():
    """Returns True if one of the callers is Grain, by the file that it is in.

    Keras and KerasHub decide in the same way, by a function that is not public.
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


def _hugging_face_tokenizer(vocabulary, sequence_length, normalization):
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(
        {token: number for number, token in enumerate(vocabulary)},
        lowercase=is_uncased(normalization),
    )
    tokenizer.enable_truncation(sequence_length)
    tokenizer.enable_padding(
        length=sequence_length, pad_id=vocabulary.index("[PAD]"), pad_token="[PAD]"
    )
    return tokenizer


def check_token_lengths(vocabulary: Sequence[str]) -> None:
    """Raises if a token is longer than tensorflow_text can hold."""
    for token in vocabulary:
        size = len(token.removeprefix("##").encode())
        if size > MAX_TOKEN_BYTES:
            raise InputError(
                f"vocabulary's tokens must be at most {MAX_TOKEN_BYTES} bytes long, "
                f"received one of {size}: {token[:20]!r}…; remove or replace it."
            )
