"""BERT's normalization of captions, as graph operations, equal to Hugging Face's.
`tensorflow_text`'s own folds by NFKC and splits at other characters.
"""

import tensorflow as tf

from align_keras.text.unicode_classes import (
    IDEOGRAPHS,
    MARKS,
    PUNCTUATION,
    REMOVED,
    SPACES,
    re2_class,
)
from align_keras.text.vocabulary import SPECIAL_TOKENS, check_normalization, is_uncased

# Private use: every other one is removed, so no caption can hold it afterwards.
_SENTINEL = "\ue000"
_SPECIAL = "|".join(token.strip("[]") for token in SPECIAL_TOKENS)
_SPECIAL_PATTERN = rf"\[({_SPECIAL})\]"
_SPACES_PATTERN = re2_class(SPACES)
_REMOVED_PATTERN = re2_class(REMOVED.replace("E000-F8FF", "E001-F8FF"))
_MARKS_PATTERN = re2_class(MARKS)
_ISOLATED_PATTERN = re2_class(PUNCTUATION + IDEOGRAPHS)


def mark_special_token(token: str, normalization: str) -> str:
    """A special token as `split_words` spells it, as no other text normalizes to."""
    inside = token.strip("[]")
    return _SENTINEL + (inside.lower() if is_uncased(normalization) else inside)


def split_words(captions: tf.Tensor, normalization: str) -> tf.RaggedTensor:
    """Normalizes captions, UTF-8 strings (n,), and splits them into words (n, ragged).

    Bytes that aren't UTF-8 are dropped. A special token that is written out in a
    caption (`[MASK]`) stays one, spelled by `mark_special_token`. Words may be empty.

    References:
        Devlin et al. 2019, the released `BasicTokenizer`.

    Example:
    >>> split_words(tf.constant(["Crème-brûlée"]), "bert_uncased").to_list()
    [[b'creme', b'-', b'brulee']]
    """
    check_normalization(normalization)
    text = tf.strings.unicode_transcode(captions, "UTF-8", "UTF-8", errors="replace")
    # Special tokens are sought in the raw text, before "[MA\0SK]" loses its NUL;
    # so the sentinel is first taken out of the text, and not by deleting it.
    text = tf.strings.regex_replace(text, _SENTINEL, "\ue001")
    text = tf.strings.regex_replace(text, _SPECIAL_PATTERN, rf" {_SENTINEL}\1 ")
    text = tf.strings.regex_replace(text, _SPACES_PATTERN, " ")
    text = tf.strings.regex_replace(text, _REMOVED_PATTERN, "")
    if is_uncased(normalization):
        text = _folded(text)
    text = tf.strings.regex_replace(text, _ISOLATED_PATTERN, r" \0 ")
    # Splitting at sep="" would ask the C locale what white space is.
    return tf.strings.split(text, " ")


def _folded(text: tf.Tensor) -> tf.Tensor:
    """Strips accents, and lowers each character alone, whatever the locale is."""
    import tensorflow_text as tf_text

    text = tf_text.normalize_utf8(text, "NFD")
    text = tf.strings.regex_replace(text, _MARKS_PATTERN, "")
    # ICU follows the locale: under LANG=tr_TR it lowers "I" to "ı". ASCII alone
    # doesn't, and nothing else that the locale changes is left after NFD.
    text = tf.strings.lower(text)
    # ICU lowers a word's last sigma to "ς", Hugging Face every one to "σ".
    text = tf.strings.regex_replace(text, "Σ", "σ")
    return tf.strings.lower(text, encoding="utf-8")
