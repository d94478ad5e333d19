"""Correlation with the rated similarity of SimLex-999."""

import numpy as np
import pytest

from align_keras.datasets.benchmarks.simlex import SimLexPair
from align_keras.evaluation import simlex_metrics, simlex_statistics, word_cosines
from align_keras.evaluation.slices import sliced_metrics
from align_keras.protocols.paper_results import paper_results
from align_keras.utils.errors import InputError


def metrics_of(encode, pairs):
    return dict(simlex_metrics(word_cosines(encode, pairs), pairs))


def random_pairs(count=60, seed=0):
    rng = np.random.default_rng(seed)
    return [
        SimLexPair(
            word1=f"w{rng.integers(30)}",
            word2=f"v{number}",
            part_of_speech="ANV"[rng.integers(3)],
            similarity=float(rng.integers(0, 101) / 10),
            concreteness_quartile=int(rng.integers(1, 5)),
            is_hard=bool(rng.integers(2)),
        )
        for number in range(count)
    ]


class Encoder:
    """Encoder with random vectors that records its calls."""

    def __init__(self):
        self.calls = []
        self.rng = np.random.default_rng(1)
        self.vectors = {}

    def __call__(self, words):
        self.calls.append(list(words))
        self.vectors = {word: self.rng.normal(size=5) for word in words}
        return np.array([self.vectors[word] for word in words])


@pytest.mark.ci
def test_the_correlation_of_each_group_equals_that_of_scipy():
    from scipy import stats

    pairs = random_pairs()
    encoder = Encoder()
    metrics = metrics_of(encoder, pairs)
    groups = {
        "all": pairs,
        "adjectives": [pair for pair in pairs if pair.part_of_speech == "A"],
        "nouns": [pair for pair in pairs if pair.part_of_speech == "N"],
        "verbs": [pair for pair in pairs if pair.part_of_speech == "V"],
        "hard": [pair for pair in pairs if pair.is_hard],
    }
    for quartile in range(1, 5):
        groups[f"concreteness_{quartile}"] = [
            pair for pair in pairs if pair.concreteness_quartile == quartile
        ]
    for name, group in groups.items():
        cosines = [
            1
            - _cosine_distance(encoder.vectors[pair.word1], encoder.vectors[pair.word2])
            for pair in group
        ]
        ratings = [pair.similarity for pair in group]
        expected = stats.spearmanr(cosines, ratings).statistic
        assert metrics[f"{name}/spearman"] == pytest.approx(expected, abs=1e-12)
        assert metrics[f"{name}/pairs"] == len(group) > 5
    assert len(metrics) == 2 * len(groups)


def _cosine_distance(first, second):
    from scipy.spatial.distance import cosine

    return cosine(first, second)


def test_each_word_is_encoded_once():
    encoder = Encoder()
    metrics_of(encoder, random_pairs())
    [words] = encoder.calls
    assert len(words) == len(set(words))


def test_metrics_do_not_depend_on_the_lengths_of_the_vectors():
    pairs = random_pairs()
    encoder = Encoder()
    expected = metrics_of(encoder, pairs)
    scaled = {
        word: (1 + number) * vector
        for number, (word, vector) in enumerate(encoder.vectors.items())
    }
    metrics = metrics_of(
        lambda words: np.array([scaled[word] for word in words]), pairs
    )
    assert metrics == pytest.approx(expected)


def test_metric_names_are_those_of_the_paper_results():
    names = {result.metric for result in paper_results() if result.protocol == "simlex"}
    assert names <= set(metrics_of(Encoder(), random_pairs()))
    assert len(names) == 9


def test_a_collapsed_model_scores_zero():
    metrics = metrics_of(lambda words: np.ones((len(words), 3)), random_pairs())
    assert metrics["all/spearman"] == 0.0
    metrics = metrics_of(lambda words: np.zeros((len(words), 3)), random_pairs())
    assert metrics["all/spearman"] == 0.0


def test_a_group_with_one_pair_is_omitted():
    pairs = [
        SimLexPair("a", "b", "N", 1.0, 1, False),
        SimLexPair("a", "c", "N", 2.0, 1, True),
    ]
    metrics = metrics_of(Encoder(), pairs)
    assert set(name.split("/")[0] for name in metrics) == {
        "all",
        "nouns",
        "concreteness_1",
    }


def test_a_slice_with_one_pair_is_omitted():
    pairs = random_pairs(5)
    statistics = simlex_statistics(word_cosines(Encoder(), pairs), pairs)
    metrics = dict(sliced_metrics(statistics, ["a", "a", "a", "a", "b"], samples=9))
    assert metrics["all/spearman[a]/items"] == 4
    assert not any("[b]" in name for name in metrics)


def test_vectors_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="encode_words"):
        metrics_of(lambda words: np.full((len(words), 2), np.nan), random_pairs(9))


@pytest.mark.ci
def test_the_statistic_equals_the_correlation_of_the_drawn_pairs():
    from scipy import stats

    pairs = random_pairs()
    cosines = word_cosines(Encoder(), pairs)
    statistic = simlex_statistics(cosines, pairs)["all/spearman"]
    assert statistic.counts.all() and len(statistic.counts) == len(pairs)
    drawn = np.random.default_rng(3).integers(0, len(pairs), (4, 25))
    similarity = np.array([pair.similarity for pair in pairs])
    expected = [
        stats.spearmanr(cosines[rows], similarity[rows]).statistic for rows in drawn
    ]
    assert statistic.function(drawn) == pytest.approx(expected, abs=1e-12)
