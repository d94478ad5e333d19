"""Metrics of a protocol next to the paper's numbers, as tables of text."""

import itertools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

# Percent by metric, model and number of the paper's table.
PaperFigures = Mapping[int, Mapping[str, Mapping[str, float]]]
# A table with more models has a row per model instead of a column.
_MOST_COLUMNS = 3
# Prefixes of the last part of metrics that are shares or correlations.
_SHARES = (
    "top_",
    "held_out_top_",
    "mean_per_class",
    "recall",
    "mean_recall",
    "chance_",
    "spearman",
)


# Words on pages for the parts of metrics' names.
_WORDS = {
    "i2t": "image → text",
    "t2i": "text → image",
    "i2i": "image → image",
    "t2t": "text → text",
    "en": "English",
    "de": "German",
    "fr": "French",
    "cs": "Czech",
    "zero_shot": "zero-shot",
    "knn": "nearest neighbors",
    "mean_per_class": "mean accuracy of the classes",
    "plus": "image plus words",
    "minus": "image minus words",
    "text_alone": "words alone",
    "sts": "captions (STS)",
    "sis": "images (SIS)",
    "sits": "image and caption (SITS)",
    "spearman": "Spearman correlation",
    "spearman_std": "Spearman correlation, standard deviation",
    "vtab": "VTAB",
}


class ResultTable(NamedTuple):
    """A table of text; its first column names the rows, the others hold numbers."""

    title: str
    columns: tuple
    rows: list


def is_share(name: str) -> bool:
    """Returns True for metrics in percent: recalls, accuracies, correlations."""
    if name.startswith("vtab/"):
        return True
    return name.rpartition("/")[2].startswith(_SHARES)


def shown(name: str, value: float | None, digits: int = 1) -> str:
    """A metric as text: in percent with `digits`, or a plain number; "–" of NaN."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "–"
    if is_share(name):
        return f"{100 * value:.{digits}f}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def _labeled(name: str, metric: str | None = None) -> str:
    """A name of a row or column, with the unit of what `shown` makes of its metric."""
    return f"{name}, %" if is_share(metric or name) else name


def metric_label(name: str) -> str:
    """Returns a metric's name as a page shows it.

    Example:
    >>> metric_label("i2t/recall_at_1"), metric_label("zero_shot/top_1")
    ('image → text, recall at 1', 'zero-shot, top-1 accuracy')
    """
    *groups, last = name.split("/")
    last = re.sub(r"recall_at_(\d+)$", r"recall at \1", last)
    last = re.sub(r"top_(\d+)(?=$|_)", r"top-\1 accuracy", last)
    words = [_WORDS.get(part, part.replace("_", " ")) for part in (*groups, last)]
    return ", ".join(words)


def without_chance(
    metrics: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, float]]:
    """Splits metrics from chance levels, which get the metric's name."""
    measured, chance = dict(metrics), {}
    for name in metrics:
        plain = name.replace("chance_", "")
        if plain != name and plain in metrics:
            chance[plain] = measured.pop(name)
    return measured, chance


def metrics_table(
    protocol: str,
    data: str,
    metrics: Mapping[str, float],
    figures: PaperFigures,
    splits: Mapping[str, str] | None = None,
) -> ResultTable:
    """Returns a table of all metrics with their chance levels and the paper's numbers.

    Args:
        protocol: str, name of the protocol.
        data: str, data set.
        metrics: mapping from a metric to its value.
        figures: the paper's numbers of the protocol on the data set.
        splits: mapping from an option to a split that is not the paper's, or None. With
            such splits, and for tables of many models, the paper's numbers are left
            out.
    """
    columns_of_models = {
        model: model_figures
        for models in figures.values()
        if len(models) <= _MOST_COLUMNS and not splits
        for model, model_figures in models.items()
    }
    metrics, chance = without_chance(metrics)
    columns = ["metric", "measured"]
    if chance:
        columns.append("chance")
    columns += columns_of_models
    rows = []
    for name, value in metrics.items():
        digits = _digits(name, columns_of_models)
        row = [_labeled(name), shown(name, value, digits)]
        if chance:
            row.append(shown(name, chance.get(name), 2))
        row += [_figure(model.get(name)) for model in columns_of_models.values()]
        rows.append(tuple(row))
    named = ", ".join(f"{name} {split}" for name, split in (splits or {}).items())
    title = f"{protocol} on {data}" + (f", {named}" if named else "")
    return ResultTable(title, tuple(columns), rows)


def paper_tables(
    protocol: str, data: str, metrics: Mapping[str, float], figures: PaperFigures
) -> dict[int, ResultTable]:
    """Returns the tables of the paper, by number, with the measured values.

    A table of few models has a column per model, and one of many models a row.
    """
    tables = {}
    for number, models in figures.items():
        names = list(dict.fromkeys(itertools.chain(*models.values())))
        digits = {name: _digits(name, models) for name in names}
        table = {
            "measured": [shown(name, metrics.get(name), digits[name]) for name in names]
        }
        for model, model_figures in models.items():
            table[model] = [_figure(model_figures.get(name)) for name in names]
        labels = [_labeled(name) for name in names]
        columns, rows = ("model", *labels), [(row, *table[row]) for row in table]
        if len(models) <= _MOST_COLUMNS:
            columns = ("metric", *table)
            rows = list(zip(labels, *table.values(), strict=True))
        title = f"Table {number}: {protocol} on {data}{_counts(metrics)}"
        tables[number] = ResultTable(title, columns, rows)
    return tables


def _counts(metrics: Mapping[str, float]) -> str:
    """The numbers of queries and candidates as the end of a title, "" without any."""
    parts = []
    for name, queries in metrics.items():
        prefix = name.removesuffix("queries")
        if prefix != name and f"{prefix}candidates" in metrics:
            candidates = metrics[f"{prefix}candidates"]
            label = f"{prefix.rstrip('/')}: " if prefix else ""
            parts.append(f"{label}{queries:,.0f} queries among {candidates:,.0f}")
    return f" ({'; '.join(parts)})" if parts else ""


def tables_of_many_models(
    protocol: str,
    data: str,
    metrics: Mapping[str, float],
    figures: PaperFigures,
    splits: Mapping[str, str] | None = None,
) -> list[ResultTable]:
    """Returns the tables of the paper that `metrics_table` leaves out."""
    tables = {} if splits else paper_tables(protocol, data, metrics, figures)
    return [table for table in tables.values() if table.columns[0] == "model"]


def _digits(name: str, models: Mapping[str, Mapping[str, float]]) -> int:
    """Returns the number of digits that the paper prints, at least one."""
    printed = [_figure(figures.get(name)) for figures in models.values()]
    return max([1, *(len(text.partition(".")[2]) for text in printed)])


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


class MetricSlice(NamedTuple):
    """One metric of one group, with its 95% interval."""

    metric: str
    group: str
    value: float
    low: float
    high: float
    items: int


def split_slices(slices: Mapping[str, float]) -> list[MetricSlice]:
    """Arranges `sliced_metrics` (`METRIC[GROUP]`, with /low, /high, /items)."""
    parsed = []
    for name, value in slices.items():
        if f"{name}/low" in slices:
            metric, _, group = name.removesuffix("]").partition("[")
            low, high, items = (
                slices[f"{name}/{end}"] for end in ("low", "high", "items")
            )
            parsed.append(MetricSlice(metric, group, value, low, high, int(items)))
    return parsed


def slices_table(title: str, slices: Mapping[str, float]) -> ResultTable:
    """A table of metrics by group, with their intervals."""
    rows = [
        (
            _labeled(f"{cell.metric}[{cell.group}]", cell.metric),
            shown(cell.metric, cell.value),
            f"{shown(cell.metric, cell.low)}–{shown(cell.metric, cell.high)}",
            f"{cell.items:,}",
        )
        for cell in split_slices(slices)
    ]
    return ResultTable(title, ("metric", "measured", "95% interval", "items"), rows)
