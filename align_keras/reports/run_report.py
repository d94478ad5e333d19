"""Report of a training run, an HTML file with metrics, curves and examples."""

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

_WIDTH_RECALL = re.compile(r"width_(\d+)/((?:t2i|i2t)/recall_at_\d+)$")
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
    """Returns the versions of Python and of the packages that affect results."""
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
    findings: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Writes the report of a run as one HTML file without external resources.

    Args:
        path: file to write.
        title: heading of the page.
        parameters: configuration of the run, a nested mapping.
        metrics: mapping that `retrieval_metrics` returns.
        history: lines of `metrics.jsonl`, mappings with `step` and metrics.
        text_queries: text queries that `contact_sheet` returns.
        image_queries: image queries that `contact_sheet` returns.
        data_notes: dict from names of corpora to notes, which may have the keys
            `kept`, `dropped`, `examples` and `notes`.
        next_steps: commands that the user may run next.
        command: command that started the run, or "".
        findings: problems of the training, the entries of `findings.json`, which have
            the keys `step`, `problem` and `remedy`. None if the training wasn't
            checked.
    """
    rows = retrieval_rows(metrics)
    recalls = {f"{row.direction}/recall_at_{row.k}" for row in rows}
    columns, measured = recall_history(history)
    widths = width_rows(metrics)
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
            if name not in recalls
            and "/chance_recall_at_" not in name
            and not _WIDTH_RECALL.match(name)
        ],
        width_columns=list(widths[0].recalls) if widths else [],
        width_rows=widths,
        charts=_charts(history),
        recall_columns=columns,
        recall_rows=measured,
        text_queries=text_queries,
        image_queries=image_queries,
        data_tables=data_tables(data_notes),
        next_steps=next_steps,
        findings=findings,
    )


def _tiles(rows: list["RetrievalRow"]) -> list["RetrievalRow"]:
    """Returns the recalls at the smallest and the largest k of each direction."""
    tiles = []
    for direction in DIRECTIONS:
        direction_rows = [row for row in rows if row.direction == direction]
        tiles.extend(direction_rows[:1] + direction_rows[1:][-1:])
    return tiles


def _charts(history: Sequence[Mapping[str, float]]) -> list[tuple[str, Any]]:
    """Returns (heading, SVG) of each chart that has data."""
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
    """Row of the table of recalls.

    Attributes:
        direction: `"t2i"` or `"i2t"`.
        k: number of top results.
        recall: fraction of queries with a correct item among the top k.
        chance: expected recall of a random ranking, or None.
        times_chance: ratio of recall and chance, or None.
        queries: number of queries, or None.
        candidates: number of candidates, or None.
    """

    direction: str
    k: int
    recall: float
    chance: float | None
    times_chance: float | None
    queries: float | None = None
    candidates: float | None = None


def retrieval_rows(metrics: Mapping[str, float]) -> list[RetrievalRow]:
    """Returns the recalls in metrics, text → image first, in ascending order of k."""
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


class WidthRow(NamedTuple):
    """Row of the table of recalls by the number of components.

    Attributes:
        width: number of first components of the embeddings, or None for all.
        recalls: dict from the name of a recall, such as `t2i/recall_at_1`, to its
            value.
    """

    width: int | None
    recalls: dict[str, float]


def width_rows(metrics: Mapping[str, float]) -> list[WidthRow]:
    """Returns the recalls at each number of components, the largest number last.

    The list is empty if recall was measured for complete embeddings only.
    """
    by_width: dict[int, dict[str, float]] = {}
    for name, recall in metrics.items():
        if match := _WIDTH_RECALL.match(name):
            by_width.setdefault(int(match[1]), {})[match[2]] = recall
    if not by_width:
        return []
    names = list(next(iter(by_width.values())))
    complete = {name: metrics[name] for name in names if name in metrics}
    rows = [WidthRow(width, by_width[width]) for width in sorted(by_width)]
    return [*rows, WidthRow(None, complete)]


def loss_series(history: Sequence[Mapping[str, float]]) -> list[Series]:
    """Returns lines of the training loss and, if it was logged, the validation loss."""
    return _series(history, {"loss": "training", "val_loss": "validation"})


def recall_series(
    history: Sequence[Mapping[str, float]], direction: str
) -> list[Series]:
    """Returns one line of recalls for each k of a direction, the largest k first."""
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
    """Returns a line for each metric that the history contains."""
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
    """Returns the recalls as a table.

    Returns:
        Names of the columns, and (step, values) of each step that measured recall.
    """
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
    """Returns nested mappings as pairs of a dotted name and a value."""
    pairs = []
    for name, value in parameters.items():
        if isinstance(value, dict) and value:
            pairs.extend(flattened(value, f"{prefix}{name}."))
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs


def data_tables(data_notes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the notes on each corpus as values of the template."""
    tables = []
    for name, notes in data_notes.items():
        dropped = notes.get("dropped") or {}
        kept_count = notes.get("kept")
        total = (kept_count or 0) + sum(dropped.values())
        share = kept_count / total if kept_count is not None and total else None
        examples = notes.get("examples") or {}
        reasons = sorted(dropped, key=lambda reason: (-dropped[reason], reason))
        rows = [
            (reason, dropped[reason], examples.get(reason, "")) for reason in reasons
        ]
        tables.append(
            {
                "name": name,
                "kept": kept_count,
                "share": share,
                "dropped": rows,
                "notes": flattened(notes.get("notes") or {}),
            }
        )
    return tables
