"""The page of one evaluation: its numbers, and what lies behind them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from align_keras.reports.charts import (
    Bar,
    bar_chart,
    classes_to_draw,
    confusion_chart,
    confusion_matrix,
    extremes,
    most_confused,
)
from align_keras.reports.examples import retrieval_examples
from align_keras.reports.page_template import write_page
from align_keras.reports.report import DIRECTIONS, installed_versions
from align_keras.reports.result_tables import (
    MetricSlice,
    PaperFigures,
    ResultTable,
    is_share,
    metric_label,
    metrics_table,
    paper_tables,
    shown,
    split_slices,
    tables_of_many_models,
    without_chance,
)

_MOST_TILES = 4
# Charts of slices; the table below them has them all.
_MOST_CHARTS = 6
_KINDS = {
    "found": ("Found", "Drawn of those with a right answer among the first five."),
    "missed": ("Missed", "Drawn of those without one."),
    "worst": ("Worst", "Their first right answer comes last of all."),
}


def write_result_page(
    path: str | os.PathLike,
    *,
    protocol: str,
    data: str,
    facts: Mapping[str, Any],
    metrics: Mapping[str, float],
    figures: PaperFigures,
    splits: Mapping[str, str] | None = None,
    slices: Mapping[str, float] | None = None,
    retrieval: Mapping[str, Any] | None = None,
    classification: Mapping[str, Any] | None = None,
) -> None:
    """Writes the results of an evaluation as one HTML file without external resources.

    Args:
        path: str or path of the file.
        protocol: str, name of the protocol.
        data: str, data set.
        facts: mapping of the model, the data and the options.
        metrics: mapping from a metric to its value.
        figures: the paper's numbers of the protocol on the data set.
        splits: mapping from an option to a split that is not the paper's, or None.
        slices: mapping of metrics by group, or None.
        retrieval: mapping of the arguments of `retrieval_examples`, or None.
        classification: mapping of labels, predictions and class names, or None.
    """
    table = metrics_table(protocol, data, metrics, figures, splits)
    write_page(
        path,
        "result_page.html.j2",
        title=table.title,
        facts=facts,
        tiles=_tiles(metrics),
        table=_with_labels(table),
        bars=_metric_bars(metrics),
        other_tables=[
            _labeled(other)
            for other in tables_of_many_models(protocol, data, metrics, figures, splits)
        ],
        slices=_labeled_slices(slices),
        slice_charts=_slice_charts(_labeled_slices(slices)),
        classes=classification and _classes(**classification),
        examples=_example_groups(retrieval),
        versions=installed_versions(),
    )


def write_suite_page(
    path: str | os.PathLike, model: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the results of the suite as one HTML file that loads nothing.

    Args:
        path: str or path of the file.
        model: str, the name of the model.
        rows: sequence of dicts, one for each protocol and data set: `protocol`,
            `data`, `tables` (their numbers), `metrics`, `figures` (the paper's
            numbers), and `skipped` or `failed`, the reason why there are no metrics.
    """
    tables = []
    left_out = []
    for row in rows:
        name = f"{row['protocol']} on {row['data']}"
        reason = row["failed"] or row["skipped"]
        if reason:
            numbers = ", ".join(map(str, row["tables"]))
            state = "failed" if row["failed"] else "skipped"
            left_out.append((numbers, name, state, reason))
        if row["metrics"]:
            numbered_tables = paper_tables(
                row["protocol"], row["data"], row["metrics"], row["figures"]
            )
            tables += [_labeled(table) for table in numbered_tables.values()]
    write_page(
        path,
        "suite_page.html.j2",
        title="The paper's tables",
        model=model,
        tables=tables,
        left_out=left_out,
        versions=installed_versions(),
    )


def _labeled(table: ResultTable) -> ResultTable:
    """A table with words in place of the metrics' names, wherever they stand."""
    if table.columns[0] == "metric":
        return _with_labels(table)
    columns = (table.columns[0], *map(_column_label, table.columns[1:]))
    return table._replace(columns=columns)


def _with_labels(table: ResultTable) -> ResultTable:
    """A table whose first column has words in place of the metrics' names."""
    rows = []
    for name, *values in table.rows:
        rows.append((_column_label(name), *values))
    return table._replace(rows=rows)


def _column_label(name: str) -> str:
    metric, unit, _ = name.partition(", %")
    return metric_label(metric) + unit


def _labeled_slices(slices: Mapping[str, float] | None) -> list[MetricSlice]:
    return [
        cell._replace(metric=metric_label(cell.metric))
        for cell in split_slices(slices or {})
    ]


def _tiles(metrics: Mapping[str, float]) -> list[tuple[str, str, str | None]]:
    """The first shares, as (name, percent, percent of chance or None)."""
    metrics, chance = without_chance(metrics)
    names = [
        name
        for name in metrics
        if is_share(name) and not name.endswith(("recall_at_5", "_std"))
    ]
    return [
        (
            metric_label(name),
            shown(name, metrics[name]),
            shown(name, chance[name], 2) if name in chance else None,
        )
        for name in names[:_MOST_TILES]
    ]


def _metric_bars(
    metrics: Mapping[str, float],
) -> list[tuple[float, float | None] | None]:
    """(share, chance or None) of each row of the table, None for plain numbers."""
    metrics, chance = without_chance(metrics)
    return [
        (value, chance.get(name)) if is_share(name) and value == value else None
        for name, value in metrics.items()
    ]


def _slice_charts(slices: list[MetricSlice]) -> list[tuple[str, Markup, int]]:
    """(metric, chart, how many groups it leaves out) of each metric."""
    charts = []
    for metric in list(dict.fromkeys(cell.metric for cell in slices))[:_MOST_CHARTS]:
        bars, omitted = extremes(
            Bar(cell.group, cell.value, cell.items, cell.low, cell.high)
            for cell in slices
            if cell.metric == metric
        )
        chart = bar_chart(bars, title=metric, value_name="measured")
        charts.append((metric, chart, omitted))
    return charts


def _classes(
    labels: Any, predictions: Any, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns the template's values of a classification."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    count = len(class_names)
    chosen = classes_to_draw(labels, predictions, count)
    part = None if len(chosen) == count else chosen
    matrix = confusion_matrix(labels, predictions, count, part)
    names = [class_names[row] for row in chosen]
    items = np.bincount(labels, minlength=count)
    right = np.bincount(labels[labels == predictions], minlength=count)
    bars = [
        Bar(class_names[row], float(right[row] / items[row]), int(items[row]))
        for row in np.flatnonzero(items).tolist()
    ]
    return {
        "count": count,
        "drawn": len(chosen),
        "matrix": confusion_chart(matrix, names, title="Confusion matrix"),
        "names": class_names,
        "confused": most_confused(labels, predictions, count),
        "charts": _class_charts(bars),
        "all": extremes(bars, len(bars) + 2)[0],
    }


def _class_charts(bars: list[Bar]) -> list[tuple[str, Markup]]:
    """(heading, chart) of all classes, or of the lowest and of the highest."""
    shown_bars, omitted = extremes(bars)
    parts = {"": shown_bars}
    if omitted:
        half = len(shown_bars) // 2
        parts = {f"The {half} lowest": shown_bars[:half]}
        parts[f"The {half} highest"] = shown_bars[half:]
    charts = []
    for heading, part in parts.items():
        title = f"Accuracy by class {heading}".strip()
        charts.append((heading, bar_chart(part, title=title, value_name="accuracy")))
    return charts


def _example_groups(
    retrieval: Mapping[str, Any] | None,
) -> list[tuple[str, str, list[tuple]]]:
    """(direction, what is found, groups of (heading, note, queries))."""
    if not retrieval:
        return []
    examples = retrieval_examples(**retrieval)
    return [
        (
            direction,
            name,
            [
                (*_KINDS[kind], queries)
                for kind, queries in examples[direction]._asdict().items()
                if queries
            ],
        )
        for direction, name in DIRECTIONS.items()
    ]
