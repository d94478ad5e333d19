"""report.html: one file that shows what a run has learnt."""

import importlib.metadata
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from align_keras.reports.charts import Series, line_chart
from align_keras.reports.examples import ExampleQuery
from align_keras.reports.page_template import write_page

DIRECTIONS = {"t2i": "text → image", "i2t": "image → text"}

_RECALL = re.compile(r"(t2i|i2t)/recall_at_(\d+)$")
_PACKAGES = (
    "align-keras",
    "tensorflow",
    "keras",
    "keras-hub",
    "tensorflow-text",
    "tensorflow-datasets",
    "numpy",
)


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that decide a run's result."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write_report(
    path: str | os.PathLike,
    *,
    title: str,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    history: Sequence[Mapping[str, float]],
    text_queries: Sequence[ExampleQuery],
    image_queries: Sequence[ExampleQuery],
    data_notes: Mapping[str, Any],
    next_steps: Iterable[str],
    command: str = "",
) -> None:
    """Writes a run's report as one HTML file that loads nothing, of its configuration,
    `retrieval_metrics`, the lines of `metrics.jsonl`, a `contact_sheet`, notes on each
    corpus, and commands.
    """
    rows = retrieval_rows(metrics)
    recalls = {f"{row.direction}/recall_at_{row.k}" for row in rows}
    columns, measured = recall_history(history)
    write_page(
        path,
        "report.html.j2",
        title=title,
        command=command,
        versions=installed_versions(),
        parameters=flattened(parameters),
        directions=DIRECTIONS,
        rows=rows,
        tiles=_tiles(rows),
        queries=[
            (name, metrics[f"{key}/queries"], metrics.get(f"{key}/candidates"))
            for key, name in DIRECTIONS.items()
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
        data_tables=data_tables(data_notes),
        next_steps=next_steps,
    )


def _tiles(rows: list["RetrievalRow"]) -> list["RetrievalRow"]:
    """The recalls at the smallest and at the largest k of each direction."""
    tiles = []
    for direction in DIRECTIONS:
        of_direction = [row for row in rows if row.direction == direction]
        tiles.extend(of_direction[:1] + of_direction[1:][-1:])
    return tiles


def _charts(history: Sequence[Mapping[str, float]]) -> list[tuple[str, Any]]:
    """Pairs of heading and SVG, without charts that have nothing to show."""
    charts = []
    losses = loss_series(history)
    if losses:
        chart = line_chart(
            losses, title="Training loss by step", x_label="step", y_label="loss"
        )
        charts.append(("Training loss", chart))
    for direction, name in DIRECTIONS.items():
        recalls = recall_series(history, direction)
        if recalls:
            chart = line_chart(
                recalls,
                title=f"Recall of {name} by step",
                x_label="step",
                y_label="recall",
                y_format="{:.1%}",
                tick_format="{:.0%}",
                from_zero=True,
            )
            charts.append((f"Recall on the test pairs, {name}", chart))
    return charts


class RetrievalRow(NamedTuple):
    """One line of the table of recalls."""

    direction: str
    k: int
    recall: float
    chance: float | None
    times_chance: float | None
    queries: float | None = None
    candidates: float | None = None


def retrieval_rows(metrics: Mapping[str, float]) -> list[RetrievalRow]:
    """Finds the recalls among metrics: text → image first, k ascending."""
    rows = []
    for name, recall in metrics.items():
        if match := _RECALL.match(name):
            direction, k = match[1], int(match[2])
            chance = metrics.get(f"{direction}/chance_recall_at_{k}")
            times = recall / chance if chance else None
            queries = metrics.get(f"{direction}/queries")
            candidates = metrics.get(f"{direction}/candidates")
            rows.append(
                RetrievalRow(direction, k, recall, chance, times, queries, candidates)
            )
    order = list(DIRECTIONS)
    return sorted(rows, key=lambda row: (order.index(row.direction), row.k))


def loss_series(history: Sequence[Mapping[str, float]]) -> list[Series]:
    """Lines of the training loss, and of the validation loss where it is logged."""
    return _series(history, {"loss": "training", "val_loss": "validation"})


def recall_series(
    history: Sequence[Mapping[str, float]], direction: str
) -> list[Series]:
    """Lines of one direction's recalls, one for each k, the largest first."""
    names = {name for line in history for name in line}
    ks = sorted(
        (int(match[2]), name)
        for name in names
        if (match := _RECALL.match(name)) and match[1] == direction
    )
    return _series(history, {name: f"R@{k}" for k, name in reversed(ks)})


def _series(
    history: Sequence[Mapping[str, float]], labels: Mapping[str, str]
) -> list[Series]:
    """A line of each of the metrics, by its label, that has points."""
    lines: list[Series] = []
    for name, label in labels.items():
        points = {
            line["step"]: line[name]
            for line in history
            if "step" in line and name in line and math.isfinite(line[name])
        }
        lines.append(Series(label, tuple(sorted(points.items())), 1 + len(lines) % 6))
    return [series for series in lines if series.points]


def recall_history(
    history: Sequence[Mapping[str, float]],
) -> tuple[list[str], list[tuple[int, list[float | None]]]]:
    """Names of columns, and (step, values) of the steps that measured recall."""
    lines: dict[int, dict[str, float]] = {}
    for direction in DIRECTIONS:
        for series in recall_series(history, direction)[::-1]:
            for step, value in series.points:
                column = f"{direction} {series.label}"
                lines.setdefault(step, {})[column] = value
    columns = list(dict.fromkeys(name for line in lines.values() for name in line))
    rows = [
        (step, [line.get(name) for name in columns])
        for step, line in sorted(lines.items())
    ]
    return columns, rows


def flattened(parameters: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as (dotted name, value) pairs."""
    pairs = []
    for name, value in parameters.items():
        if isinstance(value, dict) and value:
            pairs.extend(flattened(value, f"{prefix}{name}."))
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs


def data_tables(data_notes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The notes of each corpus as the template shows them."""
    tables = []
    for name, notes in data_notes.items():
        dropped, kept_count = notes.get("dropped") or {}, notes.get("kept")
        total = (kept_count or 0) + sum(dropped.values())
        share = kept_count / total if kept_count is not None and total else None
        examples = notes.get("examples") or {}
        reasons = sorted(dropped, key=lambda reason: (-dropped[reason], reason))
        rows = [(why, dropped[why], examples.get(why, "")) for why in reasons]
        table = {"name": name, "kept": kept_count, "share": share, "dropped": rows}
        tables.append({**table, "notes": flattened(notes.get("notes") or {})})
    return tables
