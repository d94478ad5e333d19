"""Balancing of captions over a list of terms, as in MetaCLIP.

References:
    Xu et al. 2023, "Demystifying CLIP Data", arXiv:2309.16671, sections 3.2 to 3.4.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence

import numpy as np

from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular

# Characters that become words of their own, and characters that become a space.
_SEPARATED = ",.;:?!`"
_SPACES = "\t\n\r"
_TABLE = str.maketrans(
    {**{sign: f" {sign} " for sign in _SEPARATED}, **dict.fromkeys(_SPACES, " ")}
)


def read_terms(path: str | os.PathLike) -> list[str]:
    """Reads a list of terms from a text file with one term per line.

    Blank lines are skipped. Terms that `TermMatcher` matches in the same way, such as
    repeated terms and terms that differ in tabs, are merged.

    Raises:
        InputError: if the file can't be read, is not UTF-8, or has no term.
    """
    try:
        text = read_regular(path).decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            "score.terms must be a readable file with one term per line. Received: "
            f"{path} ({error.strerror}). Check the path."
        ) from None
    except UnicodeDecodeError:
        raise InputError(
            f"score.terms must be a text file in UTF-8. Received: {path}. Save it as "
            "UTF-8."
        ) from None
    terms: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip():
            terms.setdefault(_spaced(line.strip()), line.strip())
    if not terms:
        raise InputError(
            f"score.terms must contain at least one term. Received: {path} without "
            "any. Write one term per line."
        )
    return list(terms.values())


class TermMatcher:
    """Finds the terms of a list in captions.

    A term matches if it occurs in the caption between spaces. Before, a caption gets a
    space at both ends and around each of the signs ``,.;:?!` ``. Upper and lower case
    differ, as in the code of MetaCLIP. Unlike there, terms are spaced in the same way
    as captions, so that terms with a sign match.

    Args:
        terms: sequence of str. If several terms are equal after signs and white space
            became spaces, only the first one matches.

    Example:

    >>> matcher = TermMatcher(["cat", "black cat", "St. Louis", "dog"])
    >>> sorted(matcher.match("A black cat, seen in St. Louis"))
    [0, 1, 2]
    >>> sorted(matcher.match("hotdogs and category"))
    []
    """

    def __init__(self, terms: Sequence[str]) -> None:
        self._term_count = len(terms)
        self._numbers: dict[str, int] = {}
        for row, term in enumerate(terms):
            self._numbers.setdefault(_spaced(term), row)
        self._lengths = sorted({term.count(" ") + 1 for term in self._numbers})

    def match(self, caption: str) -> set[int]:
        """Returns the positions of the terms that occur in a caption."""
        # A sequence of words is a substring between spaces.
        words = _spaced(caption).split(" ")
        numbers = set()
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                number = self._numbers.get(" ".join(words[start : start + length]))
                if number is not None:
                    numbers.add(number)
        return numbers

    def count(self, captions: Iterable[str]) -> np.ndarray:
        """Returns the number of captions that contain each term, int64 (terms,)."""
        counts = np.zeros(self._term_count, np.int64)
        for caption in captions:
            counts[list(self.match(caption))] += 1
        return counts


def _spaced(text: str) -> str:
    """Returns a text with spaces around some signs, without those at its ends."""
    return text.translate(_TABLE).strip(" ")


def term_probabilities(counts: np.ndarray, max_pairs: int) -> np.ndarray:
    """Returns the probability with which each term keeps a caption.

    Args:
        counts: int array (terms,), number of captions with each term.
        max_pairs: int ≥ 1, number of captions to keep of each term on average.

    Returns:
        float64 array (terms,), min(1, max_pairs / count).

    Example:

    >>> term_probabilities(np.array([5, 10, 40]), 10)
    array([1.  , 1.  , 0.25])
    """
    return max_pairs / np.maximum(counts, max_pairs)


def keep_probability(probabilities: np.ndarray) -> float:
    """Returns the probability that a caption is kept by at least one of its terms.

    MetaCLIP draws once for each term of a caption, independently, and keeps the caption
    if one draw succeeds.

    Args:
        probabilities: float array (terms,), probability of each term of the caption.

    Returns:
        float, 1 - Π (1 - p), which is 0 without terms.

    Example:

    >>> keep_probability(np.array([0.5, 0.5])), keep_probability(np.array([]))
    (0.75, 0.0)
    """
    return float(1 - np.prod(1 - probabilities))


def uniform_draw(id: str, caption: str, seed: int) -> float:
    """Returns a number in [0, 1) that depends only on the arguments.

    Example:

    >>> uniform_draw("7", "a cat", 0) == uniform_draw("7", "a cat", 0)
    True
    >>> uniform_draw("7", "a cat", 0) == uniform_draw("7", "a cat", 1)
    False
    """
    text = f"{seed}\0{id}\0{caption}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    # The 53 highest bits are a float64 without rounding.
    return (int.from_bytes(digest, "big") >> 11) / 2**53
