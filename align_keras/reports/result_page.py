"""HTML pages with the results of one evaluation and of the whole suite."""

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
from align_keras.reports.result_tables import (
    MetricSlice,
    PaperFigures,
    ResultTable,
    format_metric,
    is_share,
    metric_label,
    metrics_table,
    paper_tables,
    split_slices,
    tables_of_many_models,
    without_chance,
)
from align_keras.reports.run_report import DIRECTIONS, installed_versions

_MAX_TILES = 4
# Number of slice charts. The table below the charts has all slices.
_MAX_CHARTS = 6
# Heading and note of each field of `Examples`.
_EXAMPLE_GROUPS = {
    "successes": (
        "Successes",
        "Random queries with a correct answer among the top five.",
    ),
    "failures": (
        "Failures",
        "Random queries without a correct answer among the top five.",
    ),
    "worst": (
        "Worst queries",
        "The queries whose first correct answer has the worst rank.",
    ),
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
        path: file to write.
        protocol: name of the protocol.
        data: name of the data set.
        facts: dict from names to values for the top of the page, such as the model
            and the options.
        metrics: dict from names of metrics to values.
        figures: results in the paper for the protocol and the data set.
        splits: dict from options to splits that differ from the paper, or None.
        slices: metrics by group, as `sliced_metrics` returns them, or None.
        retrieval: keyword arguments of `retrieval_examples`, or None.
        classification: mapping with `labels`, `predictions` and `class_names`, or None.
    """
    table = metrics_table(protocol, data, metrics, figures, splits)
    write_page(
        path,
        "result_page.html.j2",
        title=table.title,
        facts=facts,
        tiles=_tiles(metrics),
        table=_with_row_labels(table),
        bars=_metric_bars(metrics),
        other_tables=[
            _with_column_labels(paper_table)
            for paper_table in tables_of_many_models(
                protocol, data, metrics, figures, splits
            )
        ],
        slices=_labeled_slices(slices),
        slice_charts=_slice_charts(_labeled_slices(slices)),
        classes=classification and _class_results(**classification),
        examples=_example_groups(retrieval),
        versions=installed_versions(),
    )


def write_suite_page(
    path: str | os.PathLike, model: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the results of the suite as one HTML file without external resources.

    Args:
        path: file to write.
        model: name of the model.
        rows: one mapping per protocol and data set. The keys are `protocol`, `data`,
            `tables` (numbers of tables in the paper), `runtime`, `metrics`, `figures`
            (results in the paper), and `skipped` and `failed` (the reason for missing
            metrics, or an empty str).
    """
    tables = []
    missing_results = []
    runtime = ""
    for row in rows:
        # One model is open for all rows.
        runtime = row["runtime"] or runtime
        name = f"{row['protocol']} on {row['data']}"
        reason = row["failed"] or row["skipped"]
        if reason:
            numbers = ", ".join(map(str, row["tables"]))
            state = "failed" if row["failed"] else "skipped"
            missing_results.append((numbers, name, state, reason))
        if row["metrics"]:
            numbered_tables = paper_tables(
                row["protocol"], row["data"], row["metrics"], row["figures"]
            )
            tables += [_with_column_labels(table) for table in numbered_tables.values()]
    write_page(
        path,
        "suite_page.html.j2",
        title="The paper's tables",
        model=model,
        runtime=runtime,
        tables=tables,
        missing_results=missing_results,
        versions=installed_versions(),
    )


def _with_column_labels(table: ResultTable) -> ResultTable:
    """Returns a table with readable labels instead of the names of metrics."""
    if table.columns[0] == "metric":
        return _with_row_labels(table)
    columns = (table.columns[0], *map(_metric_label_with_unit, table.columns[1:]))
    return table._replace(columns=columns)


def _with_row_labels(table: ResultTable) -> ResultTable:
    """Returns a table with readable labels instead of metric names in column one."""
    rows = []
    for name, *values in table.rows:
        rows.append((_metric_label_with_unit(name), *values))
    return table._replace(rows=rows)


def _metric_label_with_unit(name: str) -> str:
    """Returns the label of a metric whose name may end with the unit ", %"."""
    metric, unit, _ = name.partition(", %")
    return metric_label(metric) + unit


def _labeled_slices(slices: Mapping[str, float] | None) -> list[MetricSlice]:
    return [
        cell._replace(metric=metric_label(cell.metric))
        for cell in split_slices(slices or {})
    ]


def _tiles(metrics: Mapping[str, float]) -> list[tuple[str, str, str | None]]:
    """Returns (label, percent, percent of chance or None) of the first fractions."""
    metrics, chance = without_chance(metrics)
    names = [
        name
        for name in metrics
        if is_share(name) and not name.endswith(("recall_at_5", "_std"))
    ]
    return [
        (
            metric_label(name),
            format_metric(name, metrics[name]),
            format_metric(name, chance[name], 2) if name in chance else None,
        )
        for name in names[:_MAX_TILES]
    ]


def _metric_bars(
    metrics: Mapping[str, float],
) -> list[tuple[float, float | None] | None]:
    """Returns (value, chance or None) for each fraction, and None for other metrics."""
    metrics, chance = without_chance(metrics)
    return [
        (value, chance.get(name)) if is_share(name) and value == value else None
        for name, value in metrics.items()
    ]


def _slice_charts(slices: list[MetricSlice]) -> list[tuple[str, Markup, int]]:
    """Returns (metric, chart, number of omitted groups) for each metric."""
    charts = []
    for metric in list(dict.fromkeys(cell.metric for cell in slices))[:_MAX_CHARTS]:
        bars, omitted = extremes(
            Bar(cell.group, cell.value, cell.items, cell.low, cell.high)
            for cell in slices
            if cell.metric == metric
        )
        chart = bar_chart(bars, title=metric, value_name="measured")
        charts.append((metric, chart, omitted))
    return charts


def _class_results(
    labels: Any, predictions: Any, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns the values of the template for a classification."""
    labels = np.asarray(labels)
    predictions = np.asarray(predictions)
    count = len(class_names)
    drawn_classes = classes_to_draw(labels, predictions, count)
    subset = None if len(drawn_classes) == count else drawn_classes
    matrix = confusion_matrix(labels, predictions, count, subset)
    names = [class_names[row] for row in drawn_classes]
    items = np.bincount(labels, minlength=count)
    correct = np.bincount(labels[labels == predictions], minlength=count)
    bars = [
        Bar(class_names[row], float(correct[row] / items[row]), int(items[row]))
        for row in np.flatnonzero(items).tolist()
    ]
    return {
        "count": count,
        "drawn": len(drawn_classes),
        "matrix": confusion_chart(matrix, names, title="Confusion matrix"),
        "names": class_names,
        "confused": most_confused(labels, predictions, count),
        "charts": _class_charts(bars),
        "all": extremes(bars, len(bars) + 2)[0],
    }


def _class_charts(bars: list[Bar]) -> list[tuple[str, Markup]]:
    """Returns (heading, chart) of all classes, or of the lowest and the highest."""
    extreme_bars, omitted = extremes(bars)
    bars_by_heading = {"": extreme_bars}
    if omitted:
        half = len(extreme_bars) // 2
        bars_by_heading = {
            f"The {half} lowest": extreme_bars[:half],
            f"The {half} highest": extreme_bars[half:],
        }
    charts = []
    for heading, chart_bars in bars_by_heading.items():
        title = f"Accuracy by class {heading}".strip()
        chart = bar_chart(chart_bars, title=title, value_name="accuracy")
        charts.append((heading, chart))
    return charts


def _example_groups(
    retrieval: Mapping[str, Any] | None,
) -> list[tuple[str, str, list[tuple]]]:
    """Returns (direction, name, groups) with groups of (heading, note, queries)."""
    if not retrieval:
        return []
    examples = retrieval_examples(**retrieval)
    return [
        (
            direction,
            name,
            [
                (*_EXAMPLE_GROUPS[group], queries)
                for group, queries in examples[direction]._asdict().items()
                if queries
            ],
        )
        for direction, name in DIRECTIONS.items()
    ]
