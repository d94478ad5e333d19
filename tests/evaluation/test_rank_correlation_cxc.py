"""Correlation with the human ratings of Crisscrossed Captions (CxC)."""

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


def test_metric_names_are_those_of_the_paper_results():
    rng = np.random.default_rng(2)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    metrics = dict(cxc_similarity_metrics(images, texts, all_rated(rng), samples=3))
    names = {
        result.metric
        for result in paper_results()
        if result.protocol == "cxc_similarity"
    }
    assert names <= set(metrics)
    assert metrics["mean/spearman"] == pytest.approx(
        np.mean([metrics[f"{task}/spearman"] for task in ("sts", "sis", "sits")])
    )


def test_ratings_equal_to_the_cosines_of_a_task_have_correlation_1():
    rng = np.random.default_rng(3)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    rated = all_rated(rng)
    sides = {"sts": (texts, texts), "sis": (images, images), "sits": (images, texts)}
    for name, (queries, items) in sides.items():
        query_rows, item_rows, _ = rated[name]
        cosines = np.sum(queries[query_rows] * items[item_rows], axis=1)
        rated_by_model = rated | {name: (query_rows, item_rows, cosines)}
        metrics = dict(cxc_similarity_metrics(images, texts, rated_by_model, samples=5))
        assert metrics[f"{name}/spearman"] > 0.9999
        assert metrics[f"{name}/spearman_std"] < 1e-4
        assert abs(metrics["mean/spearman"]) < 0.9


@pytest.mark.ci
def test_the_bootstrap_agrees_with_a_simple_bootstrap_with_scipy():
    from scipy import stats

    rng = np.random.default_rng(4)
    queries = rng.integers(0, 100, 400)
    ratings = rng.integers(0, 51, 400) / 10
    scores = ratings + rng.normal(size=400) * (1 + queries / 50)
    correlations = bootstrapped_spearman(queries, scores, ratings, samples=2000, seed=0)
    expected, names = [], np.unique(queries)
    for _ in range(2000):
        drawn = rng.choice(names, len(names) // 2, replace=False)
        pairs = [rng.choice(np.flatnonzero(queries == name)) for name in drawn]
        expected.append(stats.spearmanr(scores[pairs], ratings[pairs]).statistic)
    # The standard error of each mean is its deviation over √2000, about 0.002.
    assert correlations.mean() == pytest.approx(np.mean(expected), abs=0.01)
    assert correlations.std() == pytest.approx(np.std(expected), rel=0.1)


@pytest.mark.ci
def test_each_sample_draws_half_of_the_queries_without_replacement():
    from scipy import stats

    # Only query 9 has the rating 1. Its share of the samples and the correlation of
    # these samples would differ if queries were drawn twice or if all were drawn.
    queries = np.arange(10)
    correlations = bootstrapped_spearman(queries, queries, (queries == 9), samples=400)
    has_query_9 = correlations > 0
    # Without query 9, the ratings are constant and the correlation is 0.
    assert set(np.round(correlations[~has_query_9], 9)) == {0.0}
    assert np.mean(has_query_9) == pytest.approx(0.5, abs=0.1)
    expected = stats.spearmanr(np.arange(5), [0, 0, 0, 0, 1]).statistic
    assert correlations[has_query_9] == pytest.approx(expected)


def test_the_metrics_depend_on_the_seed():
    rng = np.random.default_rng(5)
    images, texts, rated = unit_rows(rng, 20), unit_rows(rng, 50), all_rated(rng)

    def run(seed):
        return dict(cxc_similarity_metrics(images, texts, rated, 20, seed))

    assert run(1) == run(1) != run(2)


def test_a_collapsed_model_scores_zero():
    rng = np.random.default_rng(6)
    equal_rows = np.ones((50, 4), np.float32) / 2
    metrics = dict(
        cxc_similarity_metrics(equal_rows[:20], equal_rows, all_rated(rng), samples=10)
    )
    assert metrics["mean/spearman"] == metrics["sts/spearman_std"] == 0.0


@pytest.mark.parametrize(
    "change",
    [
        lambda queries, items: (queries, items + 50),
        lambda queries, items: (queries * 0, items),
    ],
)
def test_rows_out_of_range_and_too_few_queries_are_refused(change):
    rng = np.random.default_rng(7)
    rated = all_rated(rng)
    queries, items, ratings = rated["sits"]
    rated["sits"] = (*change(queries, items), ratings)
    with pytest.raises(InputError, match="sits"):
        dict(cxc_similarity_metrics(unit_rows(rng, 20), unit_rows(rng, 50), rated))


@pytest.mark.parametrize(
    "function", [cxc_similarity_metrics, cxc_similarity_statistics]
)
def test_embeddings_that_are_not_finite_are_refused(function):
    rng = np.random.default_rng(5)
    embeddings = {"images": unit_rows(rng, 20), "texts": unit_rows(rng, 50)}
    embeddings["texts"][3] = np.nan
    with pytest.raises(InputError, match="texts"):
        dict(function(**embeddings, rated=all_rated(rng)))


def test_slices_equal_the_metrics_of_the_queries_in_a_group():
    rng = np.random.default_rng(8)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    rated = all_rated(rng)
    # The 20 images precede the 50 captions.
    groups = np.array(["red", "blue"])[rng.integers(0, 2, 70)]
    query_groups = {"sts": groups[20:], "sis": groups[:20], "sits": groups[:20]}
    metrics = dict(
        sliced_metrics(
            cxc_similarity_statistics(images, texts, rated), groups, 40, seed=3
        )
    )
    for group in ("red", "blue"):
        group_rated, group_queries = {}, {}
        for task, (queries, items, ratings) in rated.items():
            rows = np.flatnonzero(query_groups[task][queries] == group)
            group_rated[task] = queries[rows], items[rows], ratings[rows]
            group_queries[task] = set(queries[rows])
        expected = dict(cxc_similarity_metrics(images, texts, group_rated, 40, seed=3))
        for task, sides in (
            ("sts", (texts, texts)),
            ("sis", (images, images)),
            ("sits", (images, texts)),
        ):
            name = f"{task}/spearman[{group}]"
            assert metrics[name] == pytest.approx(expected[f"{task}/spearman"])
            assert metrics[f"{name}/items"] == len(group_queries[task])
            queries, items, ratings = group_rated[task]
            cosines = np.sum(sides[0][queries] * sides[1][items], axis=1)
            values = sorted(bootstrapped_spearman(queries, cosines, ratings, 40, 3))
            low, high = np.percentile(values, (2.5, 97.5))
            assert metrics[f"{name}/low"] == pytest.approx(low)
            assert metrics[f"{name}/high"] == pytest.approx(high)
        mean = f"mean/spearman[{group}]"
        assert metrics[mean] == pytest.approx(expected["mean/spearman"])
        assert metrics[f"{mean}/items"] == len(group_queries["sts"]) + len(
            group_queries["sis"] | group_queries["sits"]
        )
        assert metrics[f"{mean}/low"] < metrics[mean] < metrics[f"{mean}/high"]


def test_the_slice_of_all_items_equals_the_metrics():
    rng = np.random.default_rng(9)
    images, texts, rated = unit_rows(rng, 20), unit_rows(rng, 50), all_rated(rng)
    statistics = cxc_similarity_statistics(images, texts, rated)
    slices = dict(sliced_metrics(statistics, ["all"] * 70, samples=30))
    metrics = dict(cxc_similarity_metrics(images, texts, rated, samples=30))
    for name in statistics:
        assert slices[f"{name}[all]"] == pytest.approx(metrics[name])


def test_groups_with_too_few_queries_are_omitted():
    rng = np.random.default_rng(10)
    images, texts, rated = unit_rows(rng, 20), unit_rows(rng, 50), all_rated(rng)
    # The group "few" has three images and four captions. Only one task has captions as
    # queries, so two tasks have too few queries.
    groups = ["few"] * 3 + ["many"] * 17 + ["few"] * 4 + ["many"] * 46
    statistics = cxc_similarity_statistics(images, texts, rated)
    metrics = dict(sliced_metrics(statistics, groups, samples=5))
    names = [name for name in metrics if name.endswith("[few]")]
    assert names == ["sts/spearman[few]"]
