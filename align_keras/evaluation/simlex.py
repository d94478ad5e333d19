"""SimLex-999: does a text encoder rank pairs of words as people do?"""

import numpy as np

from align_keras.evaluation.slices import Statistic
from align_keras.evaluation.spearman import dense_codes, rank_correlation, spearman
from align_keras.utils.errors import InputError

_PARTS_OF_SPEECH = {"adjectives": "A", "nouns": "N", "verbs": "V"}
_QUARTILES = (1, 2, 3, 4)


def evaluate_simlex(encode_words, rows):
    """Correlates the cosines of word vectors with rated similarity.

    Args:
        encode_words: function from a list of str to a real array (words,
            dimension): of the paper's model [CLS] before the projection.
        rows: sequence of (word1, word2, part of speech `"A"`, `"N"` or `"V"`,
            similarity, concreteness quartile 1 to 4, whether it is hard).

    Yields:
        Pairs of str and float: `GROUP/spearman` and `GROUP/pairs` for the
        groups all, adjectives, nouns, verbs, concreteness_1 to _4, and hard. A
        group of fewer than two pairs is left out.

    Raises:
        InputError: for no rows, and when `encode_words` doesn't return one
            finite vector a word.

    References:
        Jia et al. 2021, table 12; Hill et al. 2015, SimLex-999.

    Example:
    >>> vectors = {"old": [1, 0], "aged": [1, 0.1], "new": [1, 1], "dog": [0, 1]}
    >>> rows = [("old", "aged", "A", 9.0, 2, False), ("old", "new", "A", 1.6, 2, True),
    ...         ("old", "dog", "N", 0.5, 4, False)]
    >>> found = evaluate_simlex(lambda words: [vectors[word] for word in words], rows)
    >>> dict(found)["all/spearman"]
    1.0
    """
    rows = list(rows)
    yield from simlex_metrics(word_cosines(encode_words, rows), rows)


def simlex_metrics(cosines, rows):
    """As `evaluate_simlex`, of cosines that `word_cosines` has found."""
    similarity = np.array([row[3] for row in rows], float)
    for name, chosen in _groups(rows).items():
        if np.count_nonzero(chosen) > 1:
            yield f"{name}/spearman", spearman(cosines[chosen], similarity[chosen])
            yield f"{name}/pairs", float(np.count_nonzero(chosen))


def word_cosines(encode_words, rows):
    """Cosines of the two words' vectors.

    Args:
        encode_words: as `evaluate_simlex`.
        rows: sequence of tuples that begin with two words.

    Returns:
        float64 array (rows,).

    Raises:
        InputError: for no rows, and when `encode_words` doesn't return one vector
            a word.
    """
    if not len(rows):
        raise InputError("`rows` must hold at least one pair of words, got none.")
    words = list(dict.fromkeys(word for row in rows for word in row[:2]))
    vectors = np.asarray(encode_words(words), float)
    if vectors.ndim != 2 or len(vectors) != len(words) or not vectors.size:
        raise InputError(
            "`encode_words` must return one vector a word, got shape "
            f"{vectors.shape} for {len(words)} words."
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A word without a direction is like none.
    vectors = vectors / np.where(lengths == 0, 1.0, lengths)
    place = {word: row for row, word in enumerate(words)}
    pairs = np.array([[place[word] for word in row[:2]] for row in rows])
    return np.sum(vectors[pairs[:, 0]] * vectors[pairs[:, 1]], axis=1)


def simlex_statistics(cosines, rows):
    """The correlation of any choice of pairs, as `sliced_metrics` takes it.

    Args:
        cosines: real array (rows,), of `word_cosines`.
        rows: as `evaluate_simlex`.

    Returns:
        dict, `all/spearman` → `Statistic` over the pairs.

    Example:
    >>> rows = [("a", "b", "N", 1.0, 1, False), ("a", "c", "N", 2.0, 1, False)]
    >>> statistic = simlex_statistics(np.array([0.1, 0.2]), rows)["all/spearman"]
    >>> statistic.function(np.array([[0, 1, 1], [0, 0, 0]])).tolist()
    [1.0, 0.0]
    """
    sides = dense_codes(cosines), dense_codes([row[3] for row in rows])

    def correlations(drawn):
        return np.array(
            [rank_correlation(*(side[pairs] for side in sides)) for pairs in drawn]
        )

    return {"all/spearman": Statistic(np.ones(len(cosines), bool), correlations)}


def _groups(rows):
    """Masks of the rows by the name of their group."""
    speech, quartile, hard = (
        np.array([row[field] for row in rows]) for field in (2, 4, 5)
    )
    return {
        "all": np.ones(len(rows), bool),
        **{name: speech == letter for name, letter in _PARTS_OF_SPEECH.items()},
        **{f"concreteness_{number}": quartile == number for number in _QUARTILES},
        "hard": hard.astype(bool),
    }
