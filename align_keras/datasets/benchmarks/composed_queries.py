"""Queries of an image plus or minus words, from the names of icons."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from align_keras.datasets.icons import STYLE_WORDS, name_words
from align_keras.utils.errors import InputError

# Family, drawing style and words of an icon's name.
_Name = tuple[str, str, tuple[str, ...]]
# Bases that words must follow to count as an addition.
_LEAST_BASES = 3


@dataclasses.dataclass(frozen=True)
class ComposedQuery:
    """An image's row, words to add (1) or to subtract (-1), and the right rows."""

    image: int
    words: str
    sign: int
    targets: tuple


def composed_icon_queries(image_ids: Sequence[str]) -> list[ComposedQuery]:
    """Finds icons that are another one plus words, by their ids, `FAMILY/NAME`.

    `user-plus` is `user` plus "plus" where both are icons of one family and drawing
    style; of several bases the longest counts. The words must be added to three bases
    or more, for in `chess-king` they tell another thing of the kind. Each pair gives
    two queries: the base plus the words, and the longer name minus them.

    References:
        Jia et al. 2021, section 7 and figure 5, there without figures.
    """
    rows: dict[_Name, list[int]] = collections.defaultdict(list)
    for row, image_id in enumerate(image_ids):
        rows[_parts(image_id)].append(row)
    bases = {key: base for key in rows if (base := _longest_base(key, rows))}
    added: collections.Counter[tuple] = collections.Counter()
    # The drawing styles of one pair are one pair.
    pairs = {(key[0], key[2], base[2]) for key, base in bases.items()}
    for family, words, base_words in pairs:
        added[family, words[len(base_words) :]] += 1
    queries = []
    for key, base in bases.items():
        words = key[2][len(base[2]) :]
        if added[key[0], words] < _LEAST_BASES:
            continue
        for sign, sources, targets in (
            (1, rows[base], rows[key]),
            (-1, rows[key], rows[base]),
        ):
            queries += [
                ComposedQuery(row, " ".join(words), sign, tuple(targets))
                for row in sources
            ]
    if not queries:
        raise InputError(
            "`image_ids` must hold icons that are another one plus words, received "
            f"{len(image_ids)} ids without any; take the whole test split of icons."
        )
    return queries


def _parts(image_id: str) -> _Name:
    """`FAMILY/NAME` → family, drawing style, words of the name."""
    family, _, name = image_id.partition("/")
    words = tuple(name_words(name))
    if family not in STYLE_WORDS or not words:
        raise InputError(
            "`image_ids` must be FAMILY/NAME with a family of "
            f"{', '.join(STYLE_WORDS)}, received {image_id!r}; pass ids of the icons."
        )
    if words[-1] in STYLE_WORDS[family] and len(words) > 1:
        return family, words[-1], words[:-1]
    return family, "", words


def _longest_base(key: _Name, rows: Mapping[_Name, list[int]]) -> _Name | None:
    family, style, words = key
    for length in range(len(words) - 1, 0, -1):
        base = (family, style, words[:length])
        if base in rows:
            return base
    return None
