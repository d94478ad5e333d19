"""Captions from the names of emoji."""

import re

from align_keras.corpus.captions import clean_caption

# In Unicode's names of symbols "black" and "white" mean filled and outlined, and
# "heavy" a thick stroke: HEAVY BLACK HEART is drawn red. Where such a word tells
# what one sees (BLACK CAT), a short name has it too.
_TYPOGRAPHIC = frozenset({"black", "white", "heavy"})
# SQUARED CJK UNIFIED IDEOGRAPH-6708 and its short name.
_CODE_POINT = re.compile(r"-[0-9a-f]{4,5}$")
_CODE_POINT_NAME = re.compile(r"u[0-9a-f]{4,5}")
_COUNTRY_CODE = re.compile(r"(flag )?[a-z]{2}")


def emoji_captions(name, short_names=(), category=""):
    """Makes an emoji's captions, its name first; maybe none.

    Everything is in lower case, for most names shout and some don't. A short name is
    left out where it says nothing (`+1`, `u6708`, a country's code) or only what an
    earlier caption says in another order.
    """
    short = [_short_caption(short_name) for short_name in short_names]
    candidates = [_name_caption(name, short)]
    for caption in short:
        if not (category == "Flags" and _COUNTRY_CODE.fullmatch(caption)):
            candidates.append(caption)
    kept = {}
    for caption in candidates:
        if sum(letter.isalpha() for letter in caption) > 1:
            kept.setdefault(tuple(sorted(_words(caption))), caption)
    return list(kept.values())


def _name_caption(name, short):
    confirmed = {word for caption in short for word in _words(caption)}
    words = _CODE_POINT.sub("", clean_caption(name).lower()).split()
    dropped = _TYPOGRAPHIC - confirmed
    return " ".join([word for word in words if word not in dropped] or words)


def _short_caption(short_name):
    if _CODE_POINT_NAME.fullmatch(short_name):
        return ""
    words = clean_caption(re.sub(r"[_-]+", " ", short_name.lower()))
    # A number at the end tells namesakes apart: dog, dog2.
    return re.sub(r"\s*\d+$", "", words)


def _words(caption):
    return re.findall(r"\w+", caption)
