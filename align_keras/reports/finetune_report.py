"""Report of a fine-tuning, an HTML file with recall before and after the training."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from align_keras.evaluation import PAPER_KS
from align_keras.evaluation.slices import item_outcomes, mean_statistics, sliced_metrics
from align_keras.reports.charts import Series, line_chart
from align_keras.reports.examples import ExampleQuery
from align_keras.reports.page_template import write_page
from align_keras.reports.run_report import (
    DIRECTIONS,
    data_tables,
    flattened,
    installed_versions,
)


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """Recall for a factor of the interpolation.

    Attributes:
        factor: 0 for the original weights and 1 for the fine-tuned weights.
        recall: mean recall of the validation pairs.
        old_recall: mean recall@10 of the validation part of the old task, or
            None.
    """

    factor: float
    recall: float
    old_recall: float | None = None


@dataclasses.dataclass(frozen=True)
class RecallChange:
    """Recall@k before and after a training, with 95% intervals.

    Attributes:
        direction: `"t2i"` or `"i2t"`.
        k: number of top results.
        before: tuple of the recall and the ends of its interval.
        after: the same after the training.
        change: the same for the difference.
        queries: number of queries.
    """

    direction: str
    k: int
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    change: tuple[float, float, float]
    queries: int


def recall_changes(
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
) -> list[RecallChange]:
    """Compares the ranks of the same queries before and after a training.

    The intervals are those of the bootstrap over the queries. The interval of the
    difference uses the same queries before and after.

    Args:
        before: dict from `"t2i"` and `"i2t"` to the rank of the best correct answer of
            each query, starting at 0.
        after: the same after the training.

    Example:

    >>> ranks = {"t2i": np.array([0, 9]), "i2t": np.array([0, 9])}
    >>> after = {"t2i": np.array([0, 0]), "i2t": np.array([9, 0])}
    >>> [change.change[0] for change in recall_changes(ranks, after)]
    [0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    rows = []
    for direction in DIRECTIONS:
        outcomes = [
            item_outcomes("", ranks[direction], PAPER_KS) for ranks in (before, after)
        ]
        for k in PAPER_KS:
            first, second = (values[str(k)] for values in outcomes)
            statistics = mean_statistics(
                {"before": first, "after": second, "change": second - first}
            )
            values = dict(sliced_metrics(statistics, ["all"] * len(first)))
            intervals = {
                name: (
                    values[f"{name}[all]"],
                    values[f"{name}[all]/low"],
                    values[f"{name}[all]/high"],
                )
                for name in statistics
            }
            rows.append(
                RecallChange(
                    direction,
                    k,
                    queries=int(values["before[all]/items"]),
                    before=intervals["before"],
                    after=intervals["after"],
                    change=intervals["change"],
                )
            )
    return rows


def write_finetune_report(
    path: str | os.PathLike,
    *,
    command: str,
    parameters: Mapping[str, Any],
    sizes: Mapping[str, tuple[int, int]],
    changes: Mapping[str, Sequence[RecallChange]],
    old_task: str | None,
    curve: Sequence[CurvePoint],
    factor: float,
    history: Mapping[str, Sequence[Mapping[str, float]]],
    improved: Sequence[tuple[ExampleQuery, ExampleQuery]],
    worse: Sequence[tuple[ExampleQuery, ExampleQuery]],
    findings: Sequence[Mapping[str, Any]],
    data_notes: Mapping[str, Any],
    next_steps: Iterable[str],
) -> None:
    """Writes the report of a fine-tuning as one HTML file without external resources.

    Args:
        path: file to write.
        command: command of the fine-tuning.
        parameters: configuration of the run, a nested mapping.
        sizes: dict from the name of a split to its numbers of images and captions.
        changes: dict from the name of test data to the recalls before and after.
        old_task: name of the old task, or None if it wasn't measured.
        curve: recalls for each factor of the interpolation.
        factor: factor that was chosen.
        history: dict from the name of a stage to the lines of its `metrics.jsonl`.
        improved: captions that improved most, each as the query before and after.
        worse: captions that got worse most.
        findings: problems of the training, as in `write_report`.
        data_notes: as in `write_report`.
        next_steps: commands that the user may run next.
    """
    # Labels of lines have room for six characters, so the headings explain them.
    heading = "Recall by the factor of the interpolation: validation pairs (new, mean)"
    series = [Series("new", _points(curve, "recall"))]
    if curve[0].old_recall is not None:
        heading += " and the old task (old, at 10)"
        series.append(Series("old", _points(curve, "old_recall"), 2))
    charts = [(heading, _recall_chart(series, "Recall by factor", "factor"))]
    stages = [
        Series(
            f"no. {number}",
            tuple(
                (line["step"], line["mean_recall"])
                for line in lines
                if "mean_recall" in line
            ),
            number,
        )
        for number, lines in enumerate(history.values(), start=1)
    ]
    if any(line.points for line in stages):
        charts.append(
            (
                "Recall of the validation pairs by the number of the stage",
                _recall_chart(stages, "Recall by step", "step of the stage"),
            )
        )
    write_page(
        path,
        "finetune_report.html.j2",
        title="Fine-tuning report",
        command=command,
        versions=installed_versions(),
        parameters=flattened(parameters),
        sizes=sizes,
        directions=DIRECTIONS,
        changes=changes,
        tiles=[
            (name, change)
            for name, rows in changes.items()
            for change in rows
            if change.k == 10
        ],
        old_task=old_task,
        curve=curve,
        factor=factor,
        charts=charts,
        improved=improved,
        worse=worse,
        findings=findings,
        data_tables=data_tables(data_notes),
        next_steps=next_steps,
    )


def _points(curve: Sequence[CurvePoint], name: str) -> tuple:
    return tuple((point.factor, getattr(point, name)) for point in curve)


def _recall_chart(series: Sequence[Series], title: str, x_label: str) -> Any:
    return line_chart(
        series,
        title=title,
        x_label=x_label,
        y_label="recall",
        y_format="{:.1%}",
        tick_format="{:.0%}",
        from_zero=True,
    )
