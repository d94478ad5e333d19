"""One form for texts that say the same, and the unigrams in them."""

import functools
import html
import re
import unicodedata

import numpy as np

from align_keras.corpus.word_spans import find_words

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,31});", re.A)
# What no reader sees, comments, and tags. "a < b" and "<3" are none of these.
_MARKUP = re.compile(
    r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->|</?[a-z][^<>]*>|<[!?][^<>]*>",
    re.I | re.S,
)
# Of these categories, controls and separators part words; formats (zero-width and
# bidirectional characters, soft hyphens, byte order marks) stand inside them.
_SPACES = {"Cc", "Cs", "Co", "Zl", "Zp"}

# By byte of UTF-8: 1 where a text can't be left as it is without a closer look.
_SUSPECT = np.zeros(256, np.uint8)
_SUSPECT[[*range(10), *range(11, 32), *range(127, 256), ord("<"), ord("&")]] = 1


def normalize_text(text):
    """Returns a text in the form in which the corpus counts and stores it.

    Entities (also ones escaped twice) are resolved, tags, comments and scripts
    removed; the characters brought to NFKC; controls, private-use characters and
    halves of surrogate pairs become spaces; zero-width, bidirectional and other format
    characters vanish; runs of white space become one space. Case stays.

    NFKC, as SentencePiece's default, and not NFC: web texts write the same words in
    full-width letters, ligatures, mathematical alphabets and with no-break spaces; they
    should be one entry of the counts and of the vocabulary. What it costs: "m²" becomes
    "m2" and "™" "TM". Format characters go, joiners of emojis included, because BERT's
    own cleaning takes them from the encoder's input too.

    Args:
        text: str.

    Returns:
        str; normalising it again changes nothing.

    References:
        Unicode Standard Annex 15; Devlin et al. 2019, BERT's `BasicTokenizer`.

    Example:

    >>> normalize_text("  The <b>Ｃａｔ</b>\\u200b&amp;amp; the\\u00a0ﬁsh\\n")
    'The Cat & the fish'
    """
    while True:
        normalized = _normalize_once(text)
        # Once more after a change, which may have put together an entity or a letter
        # and its accent. It ends: entities and tags only become fewer.
        if normalized == text:
            return normalized
        text = normalized


def normalize_texts(texts):
    """Normalises many texts; the plain ones among them cost next to nothing.

    Args:
        texts: list of str.

    Returns:
        list of str, as `normalize_text` of each.

    Example:

    >>> normalize_texts(["a  cat", "a dog"])
    ['a cat', 'a dog']
    """
    if not texts:
        return []
    joined = "\n".join(texts)
    if joined.count("\n") != len(texts) - 1:
        texts = [text.replace("\n", " ") for text in texts]
        joined = "\n".join(texts)
    # Between newlines, so that the ends of a text look like those of any other.
    content = f"\n{joined}\n".encode("utf-8", "surrogatepass")
    data = np.frombuffer(content, np.uint8)
    suspect = _SUSPECT[data].view(bool)
    # A space beside a space or at an end.
    space = data == ord(" ")
    blank = space | (data == ord("\n"))
    suspect[1:] |= space[1:] & blank[:-1]
    suspect[:-1] |= space[:-1] & blank[1:]
    ends = np.flatnonzero(data == ord("\n"))[1:]
    rows = np.unique(np.searchsorted(ends, np.flatnonzero(suspect)))
    if rows.size:
        texts = list(texts)
        for row in rows.tolist():
            texts[row] = normalize_text(texts[row])
    return texts


def unigrams(text):
    """Returns the words of a text, case-folded.

    A unigram is a longest run of letters, combining marks, numerals and underscores;
    each CJK ideograph is one of its own, as in BERT. All else (punctuation, apostrophes
    and hyphens among it, symbols, emojis) only parts words. Scripts that don't part
    words, such as Thai and Japanese kana, give one unigram a run.

    Args:
        text: str.

    Returns:
        list of str.

    References:
        Jia et al. 2021, section 3, doesn't define a unigram; the ideographs are
        those of BERT's `BasicTokenizer`.

    Example:

    >>> unigrams("The Cat's STRASSE, straße; IMG_20.jpg")
    ['the', 'cat', 's', 'strasse', 'strasse', 'img_20', 'jpg']
    >>> unigrams("熊猫 Panda")
    ['熊', '猫', 'panda']
    """
    words = find_words([text.encode("utf-8", "replace").decode().replace("\n", " ")])
    content = words.data.tobytes()
    return [
        content[start:end].decode()
        for start, end in zip(words.starts, words.ends, strict=True)
    ]


def _normalize_once(text):
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    if "<" in text:
        text = _MARKUP.sub(" ", text)
    text = unicodedata.normalize("NFKC", text)
    if not text.isprintable():
        text = "".join(map(_visible, text))
    return " ".join(text.split())


@functools.lru_cache(4096)
def _visible(letter):
    category = unicodedata.category(letter)
    if category == "Cf":
        return ""
    return " " if category in _SPACES else letter
