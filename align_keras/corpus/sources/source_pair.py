"""What every source yields: where a picture is, and one text about it."""

from typing import NamedTuple

RULES = ("alt", "title", "figcaption", "caption")
# Names of columns in upper and lower case alike, the first that is there counts.
# img2dataset writes the caption twice, as `caption` and as `txt`.
_COLUMNS = {
    "caption": ("caption", "txt", "text", "alt_text", "alt", "title", "description"),
    "rule": ("rule",),
    "language": ("language", "lang"),
    "page_url": ("page_url",),
    "url": ("url", "image_url"),
}


class SourcePair(NamedTuple):
    """A picture and one text about it, as a source gives them.

    Attributes:
        image: str, the location of the picture, as
            `align_keras.corpus.sources.location` describes it.
        caption: str.
        rule: str, one of `RULES`: where the caption stood.
        language: str in lower case, such as `"en-us"`; "" where unknown.
        page_url: str, the page or the record that the pair comes from; "" where
            the source doesn't name one.
    """

    image: str
    caption: str
    rule: str = "caption"
    language: str = ""
    page_url: str = ""


def columns_of(names):
    """Finds which of a table's columns hold the parts of a pair.

    Args:
        names: iterable of str, the table's own.

    Returns:
        dict from `"caption"`, `"rule"`, `"language"`, `"page_url"` and `"url"`, those
        that the table has, to the table's own names.

    Example:

    >>> columns_of(["URL", "TEXT", "key"])
    {'caption': 'TEXT', 'url': 'URL'}
    """
    own = {name.lower(): name for name in reversed(list(names))}
    found = {}
    for part, guesses in _COLUMNS.items():
        name = next((own[guess] for guess in guesses if guess in own), None)
        if name is not None:
            found[part] = name
    return found


def pair_from_columns(image, row, columns=None):
    """Makes a pair of a record that img2dataset wrote, or one like it.

    Args:
        image: str, the picture's location.
        row: dict from column to value, such as a sample's JSON.
        columns: dict as `columns_of` returns it, where many rows have the same
            columns; found for this row by default.

    Returns:
        `SourcePair`; what the row lacks, or isn't a str, is "". Rules that aren't
        ours, and none, are `"caption"`. Without a `page_url` the picture's `url`
        stands for it.

    Example:

    >>> row = {"caption": "A cat", "url": "https://example.org/a.jpg", "rule": None}
    >>> pair_from_columns("/tmp/a.jpg", row)
    SourcePair(image='/tmp/a.jpg', caption='A cat', rule='caption', language='',
    page_url='https://example.org/a.jpg')
    """
    columns = columns_of(row) if columns is None else columns
    found = {part: row.get(name) for part, name in columns.items()}
    texts = {part: text for part, text in found.items() if isinstance(text, str)}
    rule = texts.get("rule")
    return SourcePair(
        image=image,
        caption=texts.get("caption", ""),
        rule=rule if rule in RULES else "caption",
        language=texts.get("language", ""),
        page_url=texts.get("page_url") or texts.get("url", ""),
    )
