import math
import re

from align_keras.reports import run_report as report_tables
from align_keras.reports.run_report import RetrievalRow

HISTORY = [
    {"step": 10, "loss": 5.0, "learning_rate": 1e-3},
    {"step": 20, "loss": math.nan},
    {"step": 20, "t2i/recall_at_1": 0.1, "t2i/recall_at_10": 0.3},
    {"step": 20, "i2t/recall_at_1": 0.05, "t2i/chance_recall_at_1": 0.01},
    {"step": 30, "loss": 3.0, "val_loss": 4.0},
    {"step": 30, "t2i/recall_at_1": 0.2},
]


def test_retrieval_rows_are_ordered_and_compared_with_chance():
    metrics = {
        "i2t/recall_at_10": 0.5,
        "t2i/recall_at_10": 0.4,
        "t2i/chance_recall_at_10": 0.02,
        "t2i/recall_at_5": 0.3,
        "t2i/chance_recall_at_5": 0.0,
        "i2t/queries": 7.0,
        "i2t/candidates": 9.0,
        "loss": 1.0,
    }
    assert report_tables.retrieval_rows(metrics) == [
        RetrievalRow("t2i", 5, 0.3, 0.0, None),
        RetrievalRow("t2i", 10, 0.4, 0.02, 20.0),
        RetrievalRow("i2t", 10, 0.5, None, None, 7.0, 9.0),
    ]


def test_width_rows_end_with_the_complete_embeddings(tmp_path):
    metrics = {
        "t2i/recall_at_1": 0.5,
        "i2t/recall_at_1": 0.625,
        "width_64/t2i/recall_at_1": 0.4375,
        "width_64/i2t/recall_at_1": 0.3125,
        "width_8/t2i/recall_at_1": 0.125,
        "width_8/i2t/recall_at_1": 0.1875,
    }
    rows = report_tables.width_rows(metrics)
    assert [row.width for row in rows] == [8, 64, None]
    assert rows[1].recalls == {"t2i/recall_at_1": 0.4375, "i2t/recall_at_1": 0.3125}
    assert rows[2].recalls == {"t2i/recall_at_1": 0.5, "i2t/recall_at_1": 0.625}
    assert report_tables.width_rows({"t2i/recall_at_1": 0.5}) == []
    report_tables.write_report(
        tmp_path / "report.html",
        title="widths",
        parameters={},
        metrics=metrics,
        history=[],
        text_queries=[],
        image_queries=[],
        data_notes={},
        next_steps=[],
        command="",
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    table = page.partition("Recall by number of components")[2].partition("</table>")[0]
    assert re.findall(r"([\d.]+)\s%", table) == [
        "12.5",
        "18.8",
        "43.8",
        "31.2",
        "50.0",
        "62.5",
    ]
    assert "width_8" not in page


def test_series_ignore_missing_and_infinite_values():
    loss, validation = report_tables.loss_series(HISTORY)
    assert loss.points == ((10, 5.0), (30, 3.0))
    assert validation.points == ((30, 4.0),)
    largest, smallest = report_tables.recall_series(HISTORY, "t2i")
    assert (largest.label, largest.points) == ("R@10", ((20, 0.3),))
    assert (smallest.label, smallest.points) == ("R@1", ((20, 0.1), (30, 0.2)))
    assert report_tables.loss_series([]) == []
    assert report_tables.recall_series([{"step": 1}], "i2t") == []


def test_recall_history_has_a_row_per_step():
    columns, rows = report_tables.recall_history(HISTORY)
    assert columns == ["t2i R@1", "t2i R@10", "i2t R@1"]
    assert rows == [(20, [0.1, 0.3, 0.05]), (30, [0.2, None, None])]


def test_data_tables_sort_drop_reasons_by_count():
    notes = {
        "kept": 90,
        "dropped": {"empty caption": 2, "unreadable": 8},
        "examples": {"unreadable": "x.png"},
        "notes": {"licence": "CC0"},
    }
    (table,) = report_tables.data_tables({"icons": notes})
    assert table == {
        "name": "icons",
        "kept": 90,
        "share": 0.9,
        "dropped": [("unreadable", 8, "x.png"), ("empty caption", 2, "")],
        "notes": [("licence", "CC0")],
    }
    tables = report_tables.data_tables({"icons": notes, "empty": {}})
    assert [table["name"] for table in tables] == ["icons", "empty"]
    assert tables[1]["kept"] is tables[1]["share"] is None
    assert report_tables.data_tables({}) == []


def test_flattened_keeps_empty_mappings():
    assert report_tables.flattened({"a": {"b": {"c": 1}, "d": {}}, "e": [1]}) == [
        ("a.b.c", 1),
        ("a.d", {}),
        ("e", [1]),
    ]
