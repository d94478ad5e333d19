"""One caption's text, cleaned or refused."""

import unicodedata

MAX_CAPTION_LENGTH = 2000

# Control characters and halves of surrogate pairs, which no UTF-8 file holds.
_UNPRINTABLE = {"Cc", "Cs"}


def clean_caption(text):
    """Collapses control characters and runs of white space to one space.

    Args:
        text: str.

    Returns:
        str, without white space at its ends.

    Example:

    >>> clean_caption(" a\\tred\\x00 \\n bicycle ")
    'a red bicycle'
    """
    if not text.isprintable():
        text = "".join(
            " " if unicodedata.category(letter) in _UNPRINTABLE else letter
            for letter in text
        )
    return " ".join(text.split())


def caption_fault(caption):
    """Names what is wrong with a cleaned caption.

    Args:
        caption: str.

    Returns:
        `(reason, detail)` of str, or `None` for a good caption.

    Example:

    >>> caption_fault("a" * 10_000)
    ('long caption', '10,000 characters')
    >>> caption_fault("a red bicycle")
    """
    if not caption:
        return "empty caption", ""
    if len(caption) > MAX_CAPTION_LENGTH:
        return "long caption", f"{len(caption):,} characters"
    return None
