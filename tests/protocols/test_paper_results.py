"""Tests of the published results: completeness, and the names of the metrics."""

import collections

import numpy as np
import pytest

from align_keras.datasets.benchmarks.simlex import SimLexPair
from align_keras.protocols.paper_results import paper_figures, paper_results

# The tables of arXiv 2102.05918 v2, typed independently of the package's table. The
# columns are table, protocol, data, model and values in the order of `METRICS`.
TRANSCRIPT = """
1 | retrieval | flickr30k | CLIP, zero-shot | 88.0/98.7/99.4 68.7/90.6/95.2
1 | retrieval | flickr30k | ALIGN, zero-shot | 88.6/98.7/99.7 75.7/93.8/96.8
1 | retrieval | flickr30k | ALIGN, fine-tuned | 95.3/99.8/100.0 84.9/97.4/98.6
1 | retrieval | coco | CLIP, zero-shot | 58.4/81.5/88.1 37.8/62.4/72.2
1 | retrieval | coco | ALIGN, zero-shot | 58.6/83.0/89.7 45.6/69.8/78.6
1 | retrieval | coco | ALIGN, fine-tuned | 77.0/93.5/96.9 59.9/83.3/89.8
2 | cxc_retrieval | cxc | ALIGN, fine-tuned on COCO | \
78.1/94.3/97.4 61.8/84.9/91.1 45.4/66.8/75.2 49.4/81.4/89.1
3 | cxc_similarity | cxc | ALIGN, fine-tuned on COCO | 72.9/.4 77.2/.8 67.6/1.2 72.6
4 | zero_shot | imagenet2012 | CLIP, zero-shot | 76.2
4 | zero_shot | imagenet_r | CLIP, zero-shot | 88.9
4 | zero_shot | imagenet_a | CLIP, zero-shot | 77.2
4 | zero_shot | imagenet_v2 | CLIP, zero-shot | 70.1
4 | zero_shot | imagenet2012 | ALIGN, zero-shot | 76.4
4 | zero_shot | imagenet_r | ALIGN, zero-shot | 92.2
4 | zero_shot | imagenet_a | ALIGN, zero-shot | 75.8
4 | zero_shot | imagenet_v2 | ALIGN, zero-shot | 70.1
5 | imagenet_frozen | imagenet2012 | ALIGN, frozen | 85.5
5 | imagenet_full | imagenet2012 | ALIGN, fine-tuned | 88.64/98.67
6 | vtab | vtab | ALIGN, fine-tuned | 79.99/0.15 83.38 87.56 73.25
7 | fine_grained | oxford_flowers102 | ALIGN, fine-tuned | 99.65
7 | fine_grained | oxford_iiit_pet | ALIGN, fine-tuned | 96.19
7 | fine_grained | cars196 | ALIGN, fine-tuned | 96.13
7 | fine_grained | food101 | ALIGN, fine-tuned | 95.88
8 | | | B5 + BERT-base, base | 51.7/37.5/64.6
8 | | | B5 + BERT-base, width 320 | 50.3/34.1/64.0
8 | | | B5 + BERT-base, width 160 | 47.0/34.4/63.7
8 | | | B5 + BERT-base, width 80 | 42.0/29.3/61.9
8 | | | B5 + BERT-base, 50% of the negatives | 50.2/37.0/63.8
8 | | | B5 + BERT-base, 25% of the negatives | 48.7/35.8/63.3
8 | | | B5 + BERT-base, temperature 1/128 | 52.2/36.5/64.8
8 | | | B5 + BERT-base, temperature 1/64 | 52.2/37.3/64.8
8 | | | B5 + BERT-base, temperature 1/32 | 39.6/26.9/61.2
9 | | | B7 + BERT-base, all data | 55.4/41.7/69.3
9 | | | B7 + BERT-base, 10% of the data | 52.0/39.2/68.8
9 | | | B7 + BERT-base, CC3M | 18.9/15.5/48.7
9 | | | B3 + BERT-mini, all data | 37.4/24.5/56.5
9 | | | B3 + BERT-mini, 10% of the data | 36.7/24.4/55.8
9 | | | B3 + BERT-mini, CC3M | 22.1/17.3/48.9
10 | | | B7 + BERT-base, 12M of the data | 23.8/17.5/51.4
10 | | | B7 + BERT-base, 6M of the data | 15.8/11.9/47.9
10 | | | B7 + BERT-base, 3M of the data | 8.1/6.3/41.3
10 | | | B7 + BERT-base, CC3M | 18.9/15.5/48.7
11 | multi30k | multi30k | ALIGN, English, zero-shot | 92.2
11 | multi30k | multi30k | ALIGN, multilingual, zero-shot | 90.2/84.1/84.9/63.2
12 | simlex | simlex999 | ALIGN | 39.8 49.8/45.9/16.6 23.9/41.7/47.6/57.8 31.7
"""
RECALLS = [
    f"{direction}/recall_at_{k}" for direction in ("i2t", "t2i") for k in (1, 5, 10)
]
METRICS = {
    1: RECALLS,
    2: RECALLS
    + [
        f"{direction}/recall_at_{k}" for direction in ("t2t", "i2i") for k in (1, 5, 10)
    ],
    3: [
        f"{name}/spearman{suffix}"
        for name in ("sts", "sis", "sits")
        for suffix in ("", "_std")
    ]
    + ["mean/spearman"],
    4: ["zero_shot/top_1"],
    5: ["top_1", "top_5"],
    6: ["vtab/all", "vtab/all_std", "vtab/natural", "vtab/specialized"]
    + ["vtab/structured"],
    7: ["top_1"],
    11: ["en/mean_recall", "de/mean_recall", "fr/mean_recall", "cs/mean_recall"],
    12: [
        f"{name}/spearman"
        for name in ("all", "adjectives", "nouns", "verbs")
        + tuple(f"concreteness_{quartile}" for quartile in range(1, 5))
        + ("hard",)
    ],
}
# Metrics of tables 8 to 10: retrieval on COCO and nearest neighbors on ImageNet.
ABLATION_METRICS = [
    ("retrieval", "coco", "i2t/recall_at_1"),
    ("retrieval", "coco", "t2i/recall_at_1"),
    ("knn", "imagenet2012", "knn/recall_at_1"),
]


def transcribed_values():
    """Returns a dict from (table, protocol, data, model, metric) to the value."""
    figures = {}
    for line in TRANSCRIPT.strip().splitlines():
        table, protocol, data, model, values = map(str.strip, line.split("|"))
        table = int(table)
        values = values.replace("/", " ").split()
        names = ABLATION_METRICS
        if table in METRICS:
            names = [(protocol, data, metric) for metric in METRICS[table]]
        for (protocol, data, metric), value in zip(names, values, strict=False):
            figures[table, protocol, data, model, metric] = float(value)
    return figures


def test_all_values_of_all_tables_match_the_transcript():
    values = {
        (
            result.table,
            result.protocol,
            result.data,
            result.model,
            result.metric,
        ): result.value
        for result in paper_results()
    }
    assert len(values) == len(paper_results())
    assert values == transcribed_values()
    counts = collections.Counter(result.table for result in paper_results())
    assert counts == {
        **{1: 36, 2: 12, 3: 7, 4: 8, 5: 3, 6: 5, 7: 4},
        **{8: 27, 9: 18, 10: 12, 11: 5, 12: 9},
    }


def test_recall_grows_with_k():
    """Swapped values of a table would violate this order."""
    groups = collections.defaultdict(dict)
    for result in paper_results():
        if "recall_at_" in result.metric:
            name, _, k = result.metric.rpartition("_")
            key = (result.table, result.data, result.model, name)
            groups[key][int(k)] = result.value
    complete_groups = [group for group in groups.values() if len(group) == 3]
    assert len(complete_groups) == 3 * 4 + 4
    for group in complete_groups:
        assert group[1] < group[5] < group[10]


def test_means_of_tables_match_their_parts():
    """Table 3 averages three correlations. Table 6 averages 7, 4 and 8 tasks."""
    similarity = paper_figures("cxc_similarity", "cxc")[3]["ALIGN, fine-tuned on COCO"]
    means = [similarity[f"{name}/spearman"] for name in ("sts", "sis", "sits")]
    assert np.mean(means) == pytest.approx(similarity["mean/spearman"], abs=0.05)
    vtab = paper_figures("vtab", "vtab")[6]["ALIGN, fine-tuned"]
    groups = [vtab[f"vtab/{name}"] for name in ("natural", "specialized", "structured")]
    assert np.average(groups, weights=[7, 4, 8]) == pytest.approx(
        vtab["vtab/all"], abs=0.02
    )


def test_metrics_have_the_names_of_the_protocols():
    """Reports show a published value next to the metric of the same name."""
    from align_keras import evaluation

    protocol_metrics = {
        "retrieval": {
            f"{direction}/recall_at_{k}"
            for direction in ("i2t", "t2i")
            for k in (1, 5, 10)
        },
        "knn": {f"knn/recall_at_{k}" for k in (1, 5, 10)},
    }
    eye = np.eye(4, dtype=np.float32)
    classification = evaluation.Classification(np.array([0]), np.array([0]))
    protocol_metrics["zero_shot"] = dict(
        evaluation.classification_metrics(
            "zero_shot", classification, np.array([0]), 1000
        )
    )
    values = {task: [0.5, 0.6] for task in "abc"}
    groups = {"natural": ["a"], "specialized": ["b"], "structured": ["c"]}
    protocol_metrics["vtab"] = dict(evaluation.vtab_metrics(values, groups))
    captions = {name: [["x"]] * 4 for name in ("en", "de", "fr", "cs")}
    protocol_metrics["multi30k"] = dict(
        evaluation.multilingual_metrics(
            evaluation.multilingual_ranks(eye, lambda items: eye, captions)
        )
    )
    parts = ["A", "N", "V"]
    pairs = [
        SimLexPair(
            f"w{n}", f"v{n % 5}", parts[n % 3], n % 7, 1 + n // 3 % 4, n % 2 == 0
        )
        for n in range(120)
    ]
    random = np.random.default_rng(0)
    protocol_metrics["simlex"] = dict(
        evaluation.simlex_metrics(random.normal(size=len(pairs)), pairs)
    )
    for result in paper_results():
        if result.protocol in protocol_metrics:
            assert result.metric in protocol_metrics[result.protocol], result


def test_the_version_of_a_tfds_data_set_is_ignored():
    figures = paper_figures("zero_shot", "imagenet2012")
    assert figures
    assert paper_figures("zero_shot", "imagenet2012:5.1.0") == figures
    assert paper_figures("zero_shot", "imagenet_v2/threshold-0.7:3.0.0") == {}
