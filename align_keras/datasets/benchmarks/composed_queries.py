"""Composed queries (an image plus or minus words) from the names of icons."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

# Family, drawing style and words of an icon's name.
_Name = tuple[str, str, tuple[str, ...]]
# Smallest number of base names to which words must be added to form queries.
_MIN_BASES = 3


@dataclasses.dataclass(frozen=True)
class ComposedQuery:
    """Query of an image plus or minus words.

    Attributes:
        image: row of the image.
        words: words to add or to subtract.
        sign: 1 to add the words, -1 to subtract them.
        targets: tuple of int, rows of the correct images.
    """

    image: int
    words: str
    sign: int
    targets: tuple


def composed_icon_queries(image_ids: Sequence[str]) -> list[ComposedQuery]:
    """Returns composed queries from icons whose names extend other icons' names.

    `user-plus` is the base `user` plus the word "plus", if both are icons of one family
    and drawing style. If several bases match, the longest counts. The same words must
    be added to at least three bases. Other words, as in `chess-king`, name a different
    object. Each pair gives two queries: the base plus the words, and the longer name
    minus the words.

    Args:
        image_ids: str of each image, `FAMILY/NAME`.

    References:
        Jia et al. 2021, section 7 and figure 5. The paper shows examples but no
        metrics.
    """
    rows: dict[_Name, list[int]] = collections.defaultdict(list)
    for row, image_id in enumerate(image_ids):
        rows[_parts(image_id)].append(row)
    bases = {key: base for key in rows if (base := _longest_base(key, rows))}
    added: collections.Counter[tuple] = collections.Counter()
    # A pair of names counts once, even if it exists in several drawing styles.
    pairs = {(key[0], key[2], base[2]) for key, base in bases.items()}
    for family, words, base_words in pairs:
        added[family, words[len(base_words) :]] += 1
    queries = []
    for key, base in bases.items():
        words = key[2][len(base[2]) :]
        if added[key[0], words] < _MIN_BASES:
            continue
        for sign, sources, targets in (
            (1, rows[base], rows[key]),
            (-1, rows[key], rows[base]),
        ):
            queries += [
                ComposedQuery(row, " ".join(words), sign, tuple(targets))
                for row in sources
            ]
    return queries


def _parts(image_id: str) -> _Name:
    """Splits `FAMILY/NAME` into family, drawing style and words of the name."""
    # This module imports TFDS, which the other readers don't need.
    from align_keras.datasets.icons import STYLE_WORDS, name_words

    family, _, name = image_id.partition("/")
    words = tuple(name_words(name))
    if words[-1] in STYLE_WORDS[family] and len(words) > 1:
        return family, words[-1], words[:-1]
    return family, "", words


def _longest_base(key: _Name, rows: Mapping[_Name, list[int]]) -> _Name | None:
    """Returns the icon whose name is the longest beginning of `key`, or None."""
    family, style, words = key
    for length in range(len(words) - 1, 0, -1):
        base = (family, style, words[:length])
        if base in rows:
            return base
    return None
