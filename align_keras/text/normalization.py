"""BERT normalization of captions as graph operations.

The result equals that of Hugging Face tokenizers. The normalization of tensorflow_text
is not used, because it applies NFKC and splits at other characters.
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
from align_keras.text.vocabulary import SPECIAL_TOKENS, is_uncased

# A private-use character. All of them are removed from captions, so that a normalized
# caption contains it only as a mark of a special token.
_SENTINEL = "\ue000"
_SPECIAL = "|".join(token.strip("[]") for token in SPECIAL_TOKENS)
_SPECIAL_PATTERN = rf"\[({_SPECIAL})\]"
_SPACES_PATTERN = re2_class(SPACES)
_REMOVED_PATTERN = re2_class(REMOVED.replace("E000-F8FF", "E001-F8FF"))
_MARKS_PATTERN = re2_class(MARKS)
_ISOLATED_PATTERN = re2_class(PUNCTUATION + IDEOGRAPHS)


def mark_special_token(token: str, normalization: str) -> str:
    """Returns the word that `split_words` returns for a special token.

    No other text has this word after its normalization.
    """
    name = token.strip("[]")
    return _SENTINEL + (name.lower() if is_uncased(normalization) else name)


def split_words(captions: tf.Tensor, normalization: str) -> tf.RaggedTensor:
    """Normalizes captions and splits them into words.

    Bytes that aren't UTF-8 are dropped. A special token such as `[MASK]` in a caption
    becomes the word that `mark_special_token` returns. Words may be empty.
    `"bert_uncased"` needs tensorflow-text.

    Args:
        captions: string tensor (n,), UTF-8.
        normalization: `"bert_uncased"` or `"bert_cased"`.

    Returns:
        Ragged string tensor (n, words).

    References:
        Devlin et al. 2019, `BasicTokenizer` of the released code.

    Example:
    >>> split_words(tf.constant(["T-shirt"]), "bert_cased").to_list()
    [[b'T', b'-', b'shirt']]
    """
    text = tf.strings.unicode_transcode(captions, "UTF-8", "UTF-8", errors="replace")
    # Special tokens are detected before characters are removed. Otherwise "[MA\0SK]"
    # would become a special token. A sentinel in the captions is replaced first, so
    # that only special tokens have one. It isn't deleted, because "[MA\ue000SK]" would
    # then become a special token.
    text = tf.strings.regex_replace(text, _SENTINEL, "\ue001")
    text = tf.strings.regex_replace(text, _SPECIAL_PATTERN, rf" {_SENTINEL}\1 ")
    text = tf.strings.regex_replace(text, _SPACES_PATTERN, " ")
    text = tf.strings.regex_replace(text, _REMOVED_PATTERN, "")
    if is_uncased(normalization):
        text = _fold(text)
    text = tf.strings.regex_replace(text, _ISOLATED_PATTERN, r" \0 ")
    # With sep="", the white space would depend on the C locale.
    return tf.strings.split(text, " ")


def _fold(text: tf.Tensor) -> tf.Tensor:
    """Removes accents and converts characters to lower case for any locale."""
    import tensorflow_text as tf_text

    text = tf_text.normalize_utf8(text, "NFD")
    text = tf.strings.regex_replace(text, _MARKS_PATTERN, "")
    # ICU depends on the locale. With LANG=tr_TR, it converts "I" to "ı". Converting the
    # ASCII letters first prevents this. After NFD, no other letter depends on the
    # locale.
    text = tf.strings.lower(text)
    # ICU converts the last sigma of a word to "ς". Hugging Face converts it to "σ".
    text = tf.strings.regex_replace(text, "Σ", "σ")
    return tf.strings.lower(text, encoding="utf-8")
