"""report.html: one file that shows what a run has learnt."""

import importlib.metadata
import platform

from align_keras.reports import report_tables
from align_keras.reports.line_chart import line_chart
from align_keras.reports.page_template import page_template
from align_keras.utils.files import atomic_write

_PACKAGES = (
    "align-keras",
    "tensorflow",
    "keras",
    "keras-hub",
    "tensorflow-text",
    "tensorflow-datasets",
    "numpy",
)


def installed_versions():
    """Versions of Python and of the installed packages that decide a run's result."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write_report(
    path,
    *,
    title,
    parameters,
    metrics,
    history,
    text_queries,
    image_queries,
    data_notes,
    next_steps,
    command="",
    versions=None,
):
    """Writes a run's report as one HTML file that loads nothing.

    `parameters` is the effective configuration, `metrics` what `retrieval_metrics`
    yields (names without a recall are listed below the table), `history` the lines of
    `metrics.jsonl`; `contact_sheet` makes the queries; `data_notes` are a corpus's, or
    those of each by name; `next_steps` are commands, or (explanation, command).
    """
    rows = report_tables.retrieval_rows(metrics)
    recalls = {f"{row.direction}/recall_at_{row.k}" for row in rows}
    columns, measured = report_tables.recall_history(history)
    html = page_template("report.html.j2").render(
        title=title,
        command=command,
        versions=installed_versions() if versions is None else versions,
        parameters=report_tables.flattened(parameters),
        directions=report_tables.DIRECTIONS,
        rows=rows,
        tiles=_tiles(rows),
        queries=[
            (name, metrics[f"{key}/queries"])
            for key, name in report_tables.DIRECTIONS.items()
            if f"{key}/queries" in metrics
        ],
        other_metrics=[
            (name, value)
            for name, value in metrics.items()
            if name not in recalls and "/chance_recall_at_" not in name
        ],
        charts=_charts(history),
        recall_columns=columns,
        recall_rows=measured,
        text_queries=text_queries,
        image_queries=image_queries,
        data_tables=report_tables.data_tables(data_notes),
        next_steps=[
            ("", step) if isinstance(step, str) else tuple(step) for step in next_steps
        ],
    )
    with atomic_write(path) as file:
        file.write(html)


def _tiles(rows):
    """The recalls at the smallest and at the largest k of each direction."""
    tiles = []
    for direction in report_tables.DIRECTIONS:
        of_direction = [row for row in rows if row.direction == direction]
        tiles.extend(of_direction[:1] + of_direction[1:][-1:])
    return tiles


def _charts(history):
    """Pairs of heading and SVG, without charts that have nothing to show."""
    charts = []
    loss = report_tables.loss_series(history)
    if loss:
        chart = line_chart(
            loss,
            title="Training loss by step",
            x_label="step",
            y_label="loss",
        )
        charts.append(("Training loss", chart))
    for direction, name in report_tables.DIRECTIONS.items():
        recall = report_tables.recall_series(history, direction)
        if recall:
            chart = line_chart(
                recall,
                title=f"Recall of {name} by step",
                x_label="step",
                y_label="recall",
                y_format="{:.1%}",
                tick_format="{:.0%}",
                from_zero=True,
            )
            charts.append((f"Recall on the test pairs, {name}", chart))
    return charts
