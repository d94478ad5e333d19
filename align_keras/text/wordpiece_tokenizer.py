"""WordPiece tokenization of captions as graph operations."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

try:
    import tensorflow_text as tf_text
except ImportError:  # It is missing, or built for another version of TensorFlow.
    tf_text = None

from align_keras.text.normalization import mark_special_token, split_words
from align_keras.text.vocabulary import (
    MAX_CHARACTERS_PER_WORD,
    NORMALIZATIONS,
    SPECIAL_TOKENS,
    check_vocabulary,
    is_uncased,
)
from align_keras.utils.arguments import check_choice, check_number

# Part of the key of embeddings on disk. Raise it if the same caption and vocabulary
# give other token ids.
TOKENIZATION_VERSION = 1


class WordPieceTokenizer(tf.Module):
    """WordPiece tokenization of BERT as graph operations.

    `align_keras.models.ALIGNTokenizer` is the corresponding Keras layer and describes
    the ids.

    Args:
        vocabulary: the tokens in the order of their ids. It must
            contain `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` and `[MASK]` at any position.
        sequence_length: ≥ 3, number of tokens of a caption, including `[CLS]` and
            `[SEP]`.
        normalization: `"bert_uncased"` or `"bert_cased"`.

    Call arguments:
        captions: list of str, NumPy array of str or bytes, or string tensor (n,) in
            UTF-8, or a single caption as a str or scalar.

    Returns:
        dict of `token_ids` and `padding_mask`, int32 tensors (n, sequence_length), or
        (sequence_length,) for a single caption.

    Raises:
        InputError: if an argument has the wrong type or value.

    References:
        Jia et al. 2021, section 5 (WordPiece, at most 64 tokens).

    Example:

    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "##der"]
    >>> tokenizer = WordPieceTokenizer(vocabulary, sequence_length=6)
    >>> tokenizer(["Redder cars"])["token_ids"].numpy().tolist()
    [[2, 5, 6, 1, 3, 0]]
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        sequence_length: int = 64,
        normalization: str = "bert_uncased",
    ) -> None:
        super().__init__()
        vocabulary = list(vocabulary)
        check_vocabulary(vocabulary, "vocabulary")
        remedy = "The shortest caption is [CLS], a token and [SEP]. The paper uses 64."
        check_number("sequence_length", sequence_length, 3, math.inf, True, remedy)
        check_choice("normalization", normalization, NORMALIZATIONS)
        self._vocabulary = tuple(vocabulary)
        self.sequence_length = int(sequence_length)
        self.normalization = normalization
        special = {
            token: mark_special_token(token, normalization) for token in SPECIAL_TOKENS
        }
        self._unknown = special["[UNK]"]
        self._hugging_face: Any = None
        if tf_text is None:
            self._hugging_face = _hugging_face_tokenizer(
                vocabulary, sequence_length, normalization
            )
            return
        # The tokenizer creates a constant. `init_scope` creates it outside of the graph
        # of a caller, because other graphs couldn't use it.
        with tf.init_scope():
            self._wordpiece = tf_text.FastWordpieceTokenizer(
                [special.get(token, token) for token in vocabulary],
                token_out_type=tf.int32,
                unknown_token=self._unknown,
                # `_wordpieces` applies the limit of BERT, which is in characters.
                max_bytes_per_word=4 * MAX_CHARACTERS_PER_WORD,
                no_pretokenization=True,
            )

    @property
    def vocabulary(self) -> list[str]:
        """Tokens in the order of their ids."""
        return list(self._vocabulary)

    @property
    def in_graph(self) -> bool:
        """True if the tokenizer can be part of an exported graph."""
        return self._hugging_face is None

    def __call__(self, captions: Any) -> dict[str, tf.Tensor]:
        captions = tf.convert_to_tensor(captions, tf.string)
        if captions.shape.rank == 0:
            batch = self(captions[tf.newaxis])
            return {name: values[0] for name, values in batch.items()}
        captions = tf.ensure_shape(captions, (None,))
        if not self.in_graph:
            return self._from_hugging_face(captions)
        return self._pad(self._wordpieces(captions))

    def _from_hugging_face(self, captions: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `token_ids` and `padding_mask` in Python outside of the graph."""

        def encode(captions: np.ndarray) -> np.ndarray:
            texts = [text.decode("utf-8", "replace") for text in captions.tolist()]
            encodings = self._hugging_face.encode_batch(texts)
            rows = [(encoding.ids, encoding.attention_mask) for encoding in encodings]
            shape = (len(rows), 2, self.sequence_length)
            return np.array(rows, np.int32).reshape(shape)

        both = tf.numpy_function(encode, [captions], tf.int32, stateful=False)
        both = tf.ensure_shape(both, (captions.shape[0], 2, self.sequence_length))
        return {"token_ids": both[:, 0], "padding_mask": both[:, 1]}

    def _wordpieces(self, captions: tf.Tensor) -> tf.RaggedTensor:
        """Returns token ids without [CLS] and [SEP] as ragged int32 (n, tokens)."""
        words = split_words(captions, self.normalization)
        lengths = tf.strings.length(words.flat_values, unit="UTF8_CHAR")
        words = words.with_flat_values(
            tf.where(
                lengths > MAX_CHARACTERS_PER_WORD, self._unknown, words.flat_values
            )
        )
        return self._wordpiece.tokenize(words).merge_dims(1, 2)

    def _pad(self, tokens: tf.RaggedTensor) -> dict[str, tf.Tensor]:
        """Truncates the tokens, adds [CLS] and [SEP], and pads the captions."""
        tokens = tokens[:, : self.sequence_length - 2]
        column = tf.ones((tokens.nrows(), 1), tf.int32)
        framed = tf.concat(
            [self._id("[CLS]") * column, tokens, self._id("[SEP]") * column], axis=1
        )
        token_ids = framed.to_tensor(
            default_value=self._id("[PAD]"), shape=(None, self.sequence_length)
        )
        # The mask is int32, because tf.distribute can't gather booleans.
        padding_mask = tf.sequence_mask(
            framed.row_lengths(), self.sequence_length, dtype=tf.int32
        )
        return {"token_ids": token_ids, "padding_mask": padding_mask}

    def _id(self, token: str) -> int:
        return self._vocabulary.index(token)


def _hugging_face_tokenizer(
    vocabulary: list[str], sequence_length: int, normalization: str
) -> Any:
    """Returns a Hugging Face tokenizer, which doesn't need tensorflow-text."""
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
