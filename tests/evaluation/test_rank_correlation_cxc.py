import numpy as np
import pytest

from align_keras.evaluation.rank_correlation import (
    bootstrapped_spearman,
    cxc_similarity_metrics,
    cxc_similarity_statistics,
)
from align_keras.evaluation.slices import sliced_metrics
from align_keras.protocols.paper_results import paper_results
from align_keras.utils.errors import InputError


def unit_rows(rng, rows, dimension=8):
    values = rng.normal(size=(rows, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def papers_names(protocol):
    return {r.metric for r in paper_results() if r.protocol == protocol}


def rated_pairs(rng, queries, items, pairs=300):
    return (
        rng.integers(0, queries, pairs),
        rng.integers(0, items, pairs),
        rng.integers(0, 51, pairs) / 10,
    )


def all_rated(rng, images=20, texts=50):
    return {
        "sts": rated_pairs(rng, texts, texts),
        "sis": rated_pairs(rng, images, images),
        "sits": rated_pairs(rng, images, texts),
    }


def test_metrics_have_the_papers_names():
    rng = np.random.default_rng(2)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    found = dict(cxc_similarity_metrics(images, texts, all_rated(rng), samples=3))
    papers = [own for own in paper_results() if own.protocol == "cxc_similarity"]
    assert {own.metric for own in papers} <= set(found)
    assert found["mean/spearman"] == pytest.approx(
        np.mean([found[f"{task}/spearman"] for task in ("sts", "sis", "sits")])
    )


def test_similarity_takes_the_right_sides():
    rng = np.random.default_rng(3)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    rated = all_rated(rng)
    sides = {"sts": (texts, texts), "sis": (images, images), "sits": (images, texts)}
    for name, (queries, items) in sides.items():
        rows, others, _ = rated[name]
        cosines = np.sum(queries[rows] * items[others], axis=1)
        # Rated just as the model would: the correlation is one.
        own = rated | {name: (rows, others, cosines)}
        found = dict(cxc_similarity_metrics(images, texts, own, samples=5))
        assert found[f"{name}/spearman"] > 0.9999
        assert found[f"{name}/spearman_std"] < 1e-4
        assert abs(found["mean/spearman"]) < 0.9


@pytest.mark.ci
def test_bootstrap_equals_a_plain_one_by_scipy():
    from scipy import stats

    rng = np.random.default_rng(4)
    queries = rng.integers(0, 100, 400)
    ratings = rng.integers(0, 51, 400) / 10
    scores = ratings + rng.normal(size=400) * (1 + queries / 50)
    found = bootstrapped_spearman(queries, scores, ratings, samples=2000, seed=0)
    plain, names = [], np.unique(queries)
    for _ in range(2000):
        drawn = rng.choice(names, len(names) // 2, replace=False)
        pairs = [rng.choice(np.flatnonzero(queries == name)) for name in drawn]
        plain.append(stats.spearmanr(scores[pairs], ratings[pairs]).statistic)
    # The standard error of either mean is its deviation over √2000, about 0.002.
    assert found.mean() == pytest.approx(np.mean(plain), abs=0.01)
    assert found.std() == pytest.approx(np.std(plain), rel=0.1)


@pytest.mark.ci
def test_each_sample_draws_half_of_the_queries_once():
    # One pair says 1 and the rest lies in one order: were queries drawn twice, or
    # all of them drawn, the correlation would vary less or more.
    from scipy import stats

    queries = np.arange(10)
    found = bootstrapped_spearman(queries, queries, (queries == 9), samples=400)
    present = found > 0
    # Absent, the ratings are constant, which counts as 0.
    assert set(np.round(found[~present], 9)) == {0.0}
    assert np.mean(present) == pytest.approx(0.5, abs=0.1)
    expected = stats.spearmanr(np.arange(5), [0, 0, 0, 0, 1]).statistic
    assert found[present] == pytest.approx(expected)


def test_the_seed_decides():
    rng = np.random.default_rng(5)
    images, texts, rated = unit_rows(rng, 20), unit_rows(rng, 50), all_rated(rng)

    def run(seed):
        return dict(cxc_similarity_metrics(images, texts, rated, 20, seed))

    assert run(1) == run(1) != run(2)


def test_a_collapsed_model_scores_zero():
    rng = np.random.default_rng(6)
    same = np.ones((50, 4), np.float32) / 2
    found = dict(cxc_similarity_metrics(same[:20], same, all_rated(rng), samples=10))
    assert found["mean/spearman"] == found["sts/spearman_std"] == 0.0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sts", lambda q, i, r: (q, i, r[1:]), r"`rated\['sts'\]`.*\(299,\)"),
        ("sis", lambda q, i, r: (q + 20, i, r), r"queries of .*\[0, 20\)"),
        ("sits", lambda q, i, r: (q, i + 50, r), r"items of .*\[0, 50\)"),
        ("sits", lambda q, i, r: (q * 0, i, r), "at least 4 queries.*received 1"),
    ],
)
def test_errors(name, change, message):
    rng = np.random.default_rng(7)
    rated = all_rated(rng)
    rated[name] = change(*rated[name])
    with pytest.raises(InputError, match=message):
        dict(cxc_similarity_metrics(unit_rows(rng, 20), unit_rows(rng, 50), rated))


def test_no_samples():
    with pytest.raises(InputError, match="`samples` must be .* received 0"):
        dict(cxc_similarity_metrics(None, None, {}, samples=0))


def test_slices_are_the_protocol_on_the_rows_of_the_groups_queries():
    rng = np.random.default_rng(8)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    rated = all_rated(rng)
    groups = np.array(["red", "blue"])[rng.integers(0, 2, 70)]  # Pictures first.
    of_queries = {"sts": groups[20:], "sis": groups[:20], "sits": groups[:20]}
    found = dict(
        sliced_metrics(
            cxc_similarity_statistics(images, texts, rated), groups, 40, seed=3
        )
    )
    for group in ("red", "blue"):
        part, counted = {}, {}
        for task, (queries, items, ratings) in rated.items():
            own = [row for row in range(300) if of_queries[task][queries[row]] == group]
            part[task] = queries[own], items[own], ratings[own]
            counted[task] = set(queries[own])
        expected = dict(cxc_similarity_metrics(images, texts, part, 40, seed=3))
        for task, sides in (
            ("sts", (texts, texts)),
            ("sis", (images, images)),
            ("sits", (images, texts)),
        ):
            name = f"{task}/spearman[{group}]"
            assert found[name] == pytest.approx(expected[f"{task}/spearman"])
            assert found[f"{name}/items"] == len(counted[task])
            queries, items, ratings = part[task]
            cosines = np.sum(sides[0][queries] * sides[1][items], axis=1)
            values = sorted(bootstrapped_spearman(queries, cosines, ratings, 40, 3))
            low, high = np.percentile(values, (2.5, 97.5))
            assert found[f"{name}/low"] == pytest.approx(low)
            assert found[f"{name}/high"] == pytest.approx(high)
        mean = f"mean/spearman[{group}]"
        assert found[mean] == pytest.approx(expected["mean/spearman"])
        assert found[f"{mean}/items"] == len(counted["sts"]) + len(
            counted["sis"] | counted["sits"]
        )
        assert found[f"{mean}/low"] < found[mean] < found[f"{mean}/high"]


def test_a_group_of_all_has_the_whole_metrics():
    rng = np.random.default_rng(9)
    images, texts, rated = unit_rows(rng, 20), unit_rows(rng, 50), all_rated(rng)
    statistics = cxc_similarity_statistics(images, texts, rated)
    found = dict(sliced_metrics(statistics, ["all"] * 70, samples=30))
    whole = dict(cxc_similarity_metrics(images, texts, rated, samples=30))
    for name in statistics:
        assert found[f"{name}[all]"] == pytest.approx(whole[name])


def test_groups_of_too_few_queries_are_left_out():
    rng = np.random.default_rng(10)
    images, texts, rated = unit_rows(rng, 20), unit_rows(rng, 50), all_rated(rng)
    # Three pictures and four captions: two tasks have too few queries.
    groups = ["few"] * 3 + ["rest"] * 17 + ["few"] * 4 + ["rest"] * 46
    statistics = cxc_similarity_statistics(images, texts, rated)
    found = dict(sliced_metrics(statistics, groups, samples=5))
    few = [name for name in found if name.endswith("[few]")]
    assert few == ["sts/spearman[few]"]
