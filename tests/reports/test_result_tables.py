"""Text tables of metrics and of the results in the paper."""

import math

import pytest

from align_keras.protocols.paper_results import paper_figures
from align_keras.reports.result_tables import (
    format_metric,
    is_share,
    metrics_table,
    paper_tables,
    tables_of_many_models,
    without_chance,
)


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("i2t/recall_at_1", 0.88649, "88.6"),
        ("all/spearman", -0.0523, "-5.2"),
        ("zero_shot/top_1", math.nan, "–"),
        ("zero_shot/top_1", None, ""),
        ("images", 25010.0, "25,010"),
        ("linear_probe/penalty", 0.0001234, "0.0001234"),
    ],
)
def test_format_metric_uses_percent_for_fractions(name, value, text):
    assert format_metric(name, value) == text


def test_counts_are_not_in_percent():
    for name in ("images", "i2t/queries", "i2t/queries_without_positives", "gallery"):
        assert not is_share(name)


def test_chance_has_a_column():
    metrics = {
        "i2t/recall_at_1": 0.5,
        "i2t/chance_recall_at_1": 0.001,
        "chance_of_rain": 0.3,
        "images": 4.0,
    }
    measured, chance = without_chance(metrics)
    assert list(measured) == ["i2t/recall_at_1", "chance_of_rain", "images"]
    assert chance == {"i2t/recall_at_1": 0.001}
    table = metrics_table(
        "retrieval", "stamps", metrics, paper_figures("retrieval", "stamps")
    )
    assert table.columns == ("metric", "measured", "chance")
    assert table.rows == [
        ("i2t/recall_at_1, %", "50.0", "0.10"),
        ("chance_of_rain, %", "30.0", ""),
        ("images", "4", ""),
    ]


def test_a_few_models_have_one_column_each():
    metrics = {"i2t/recall_at_1": 0.5, "i2t/recall_at_10": 0.9, "images": 5000.0}
    table = metrics_table(
        "retrieval", "coco", metrics, paper_figures("retrieval", "coco")
    )
    models = ("ALIGN, zero-shot", "ALIGN, fine-tuned", "CLIP, zero-shot")
    assert table.columns == ("metric", "measured", *models)
    assert table.rows == [
        ("i2t/recall_at_1, %", "50.0", "58.6", "77.0", "58.4"),
        ("i2t/recall_at_10, %", "90.0", "89.7", "96.9", "88.1"),
        ("images", "5,000", "", "", ""),
    ]
    assert [
        table.title
        for table in tables_of_many_models(
            "retrieval", "coco", metrics, paper_figures("retrieval", "coco")
        )
    ] == [
        "Table 8: retrieval on coco",
        "Table 9: retrieval on coco",
        "Table 10: retrieval on coco",
    ]


def test_other_splits_are_not_compared_with_the_paper():
    metrics = {"i2t/recall_at_1": 0.5}
    table = metrics_table(
        "retrieval",
        "coco",
        metrics,
        paper_figures("retrieval", "coco"),
        {"split": "val"},
    )
    assert table.title == "retrieval on coco, split val"
    assert table.columns == ("metric", "measured")
    assert table.rows == [("i2t/recall_at_1, %", "50.0")]
    assert (
        tables_of_many_models(
            "retrieval",
            "coco",
            metrics,
            paper_figures("retrieval", "coco"),
            {"split": "val"},
        )
        == []
    )
    splits = {"split": "train", "train_split": "train[:9]"}
    title = metrics_table(
        "knn", "food101", {}, paper_figures("knn", "food101"), splits
    ).title
    assert title == "knn on food101, split train, train_split train[:9]"


def test_metrics_have_as_many_digits_as_in_the_paper():
    (table,) = paper_tables(
        "vtab", "vtab", {"vtab/all": 0.79994}, paper_figures("vtab", "vtab")
    ).values()
    assert table.rows[0] == ("vtab/all, %", "79.99", "79.99")
    assert table.rows[2] == ("vtab/natural, %", "", "83.38")
    (table,) = paper_tables(
        "simlex",
        "simlex999",
        {"all/spearman": 0.4},
        paper_figures("simlex", "simlex999"),
    ).values()
    assert table.rows[0] == ("all/spearman, %", "40.0", "39.8")


def test_many_models_have_one_row_each():
    tables = paper_tables(
        "retrieval",
        "coco",
        {"i2t/recall_at_1": 0.5},
        paper_figures("retrieval", "coco"),
    )
    assert list(tables) == [1, 8, 9, 10]
    assert len(tables[1].rows) == 6
    ablations = tables[8]
    assert ablations.columns == ("model", "i2t/recall_at_1, %", "t2i/recall_at_1, %")
    assert ablations.rows[0] == ("measured", "50.0", "")
    assert ("B5 + BERT-base, temperature 1/32", "39.6", "26.9") in ablations.rows
    assert len(ablations.rows) == 10


def test_data_sets_outside_the_paper_have_no_paper_tables():
    assert (
        paper_tables("retrieval", "stamps", {}, paper_figures("retrieval", "stamps"))
        == {}
    )
    assert (
        metrics_table(
            "retrieval", "stamps", {}, paper_figures("retrieval", "stamps")
        ).rows
        == []
    )


def test_titles_state_the_numbers_of_queries_and_candidates():
    metrics = {
        "i2t/recall_at_1": 0.5,
        "i2t/queries": 5000.0,
        "i2t/candidates": 25000.0,
        "t2i/queries": 25000.0,
        "t2i/candidates": 5000.0,
    }
    assert paper_tables(
        "retrieval", "coco", metrics, paper_figures("retrieval", "coco")
    )[1].title == (
        "Table 1: retrieval on coco (i2t: 5,000 queries among 25,000, "
        "t2i: 25,000 queries among 5,000)"
    )
