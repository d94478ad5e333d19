import numpy as np
import pytest

from align_keras.evaluation import simlex_metrics, simlex_statistics, word_cosines
from align_keras.protocols.paper_results import paper_results
from align_keras.utils.errors import InputError


def metrics_of(encode, rows):
    return dict(simlex_metrics(word_cosines(encode, rows), rows))


def made_rows(count=60, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            f"w{rng.integers(30)}",
            f"v{number}",
            "ANV"[rng.integers(3)],
            float(rng.integers(0, 101) / 10),
            int(rng.integers(1, 5)),
            bool(rng.integers(2)),
        )
        for number in range(count)
    ]


class Encoder:
    def __init__(self):
        self.asked = []
        self.rng = np.random.default_rng(1)
        self.vectors = {}

    def __call__(self, words):
        self.asked.append(list(words))
        self.vectors = {word: self.rng.normal(size=5) for word in words}
        return np.array([self.vectors[word] for word in words])


@pytest.mark.ci
def test_every_group_equals_scipy():
    from scipy import stats

    rows, encoder = made_rows(), Encoder()
    found = metrics_of(encoder, rows)
    groups = {
        "all": lambda row: True,
        "adjectives": lambda row: row[2] == "A",
        "nouns": lambda row: row[2] == "N",
        "verbs": lambda row: row[2] == "V",
        "hard": lambda row: row[5],
    } | {f"concreteness_{q}": lambda row, q=q: row[4] == q for q in range(1, 5)}
    for name, belongs in groups.items():
        own = [row for row in rows if belongs(row)]
        cosines = [
            1 - _cosine_distance(encoder.vectors[row[0]], encoder.vectors[row[1]])
            for row in own
        ]
        expected = stats.spearmanr(cosines, [row[3] for row in own]).statistic
        assert found[f"{name}/spearman"] == pytest.approx(expected, abs=1e-12)
        assert found[f"{name}/pairs"] == len(own) > 5
    assert len(found) == 2 * len(groups)


def _cosine_distance(first, second):
    from scipy.spatial.distance import cosine

    return cosine(first, second)


def test_each_word_is_encoded_once():
    encoder = Encoder()
    metrics_of(encoder, made_rows())
    [words] = encoder.asked
    assert len(words) == len(set(words))


def test_lengths_of_vectors_do_not_matter():
    rows, encoder = made_rows(), Encoder()
    expected = metrics_of(encoder, rows)
    scaled = {
        word: (1 + number) * vector
        for number, (word, vector) in enumerate(encoder.vectors.items())
    }
    again = metrics_of(lambda words: np.array([scaled[word] for word in words]), rows)
    assert again == pytest.approx(expected)


def test_metrics_have_the_papers_names():
    names = {result.metric for result in paper_results() if result.protocol == "simlex"}
    assert names <= set(metrics_of(Encoder(), made_rows()))
    assert len(names) == 9


def test_a_collapsed_model_scores_zero():
    found = metrics_of(lambda words: np.ones((len(words), 3)), made_rows())
    assert found["all/spearman"] == 0.0
    found = metrics_of(lambda words: np.zeros((len(words), 3)), made_rows())
    assert found["all/spearman"] == 0.0


def test_a_group_of_one_pair_is_left_out():
    rows = [("a", "b", "N", 1.0, 1, False), ("a", "c", "N", 2.0, 1, True)]
    found = metrics_of(Encoder(), rows)
    assert set(name.split("/")[0] for name in found) == {
        "all",
        "nouns",
        "concreteness_1",
    }


@pytest.mark.parametrize(
    ("encode", "rows", "message"),
    [
        (Encoder(), [], "at least one pair"),
        (lambda words: np.ones(len(words)), made_rows(3), "one vector a word"),
        (lambda words: np.ones((2, 2)), made_rows(9), r"received \(2, 2\) for"),
        (lambda words: np.full((len(words), 2), np.nan), made_rows(9), "finite"),
    ],
)
def test_errors(encode, rows, message):
    with pytest.raises(InputError, match=message):
        metrics_of(encode, rows)


@pytest.mark.ci
def test_the_statistic_is_the_correlation_of_the_drawn_pairs():
    from scipy import stats

    rows = made_rows()
    cosines = word_cosines(Encoder(), rows)
    statistic = simlex_statistics(cosines, rows)["all/spearman"]
    assert statistic.counts.all() and len(statistic.counts) == len(rows)
    drawn = np.random.default_rng(3).integers(0, len(rows), (4, 25))
    similarity = np.array([row[3] for row in rows])
    expected = [
        stats.spearmanr(cosines[pairs], similarity[pairs]).statistic for pairs in drawn
    ]
    assert statistic.function(drawn) == pytest.approx(expected, abs=1e-12)
