"""Text tables that compare the metrics of a protocol with the results in the paper."""

import itertools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

# Results in the paper in percent. The keys are the number of the table, the model and
# the metric.
PaperFigures = Mapping[int, Mapping[str, Mapping[str, float]]]
# Maximum number of models with one column per model. Larger tables have one row per
# model.
_MAX_MODEL_COLUMNS = 3
# Metrics are fractions or correlations if the last part of the name starts with one of
# these prefixes.
_FRACTION_PREFIXES = (
    "top_",
    "held_out_top_",
    "mean_per_class",
    "recall",
    "mean_recall",
    "chance_",
    "spearman",
)


# Readable labels for the parts of names of metrics.
_PART_LABELS = {
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
    "paper": "formula of the paper",
    "sts": "captions (STS)",
    "sis": "images (SIS)",
    "sits": "image and caption (SITS)",
    "spearman": "Spearman correlation",
    "spearman_std": "Spearman correlation, standard deviation",
    "vtab": "VTAB",
}


class ResultTable(NamedTuple):
    """Table of text. The first column has the names of the rows."""

    title: str
    columns: tuple
    rows: list


def is_share(name: str) -> bool:
    """Returns True for metrics in percent, such as recalls and correlations."""
    if name.startswith("vtab/"):
        return True
    return name.rpartition("/")[2].startswith(_FRACTION_PREFIXES)


def format_metric(name: str, value: float | None, digits: int = 1) -> str:
    """Returns the value of a metric as text without a unit.

    Args:
        name: name of the metric.
        value: float or None.
        digits: number of decimals of percentages.

    Returns:
        Percent for fractions and correlations, a plain number for other metrics, a dash
        for NaN and infinity, and "" for None.
    """
    if value is None:
        return ""
    if not math.isfinite(value):
        return "–"
    if is_share(name):
        return f"{100 * value:.{digits}f}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def _with_unit(name: str, metric: str | None = None) -> str:
    """Returns the name of a row or column with the unit of its metric."""
    return f"{name}, %" if is_share(metric or name) else name


def metric_label(name: str) -> str:
    """Returns a readable label of a metric.

    Example:
    >>> metric_label("i2t/recall_at_1"), metric_label("zero_shot/top_1")
    ('image → text, recall at 1', 'zero-shot, top-1 accuracy')
    """
    *groups, last = name.split("/")
    last = re.sub(r"recall_at_(\d+)$", r"recall at \1", last)
    last = re.sub(r"top_(\d+)(?=$|_)", r"top-\1 accuracy", last)
    parts = (*groups, last)
    return ", ".join(_PART_LABELS.get(part, part.replace("_", " ")) for part in parts)


def without_chance(
    metrics: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, float]]:
    """Separates metrics from their chance levels.

    Returns:
        dict of metrics, and dict of chance levels by the names of the metrics.
    """
    measured = dict(metrics)
    chance = {}
    for name in metrics:
        metric = name.replace("chance_", "")
        if metric != name and metric in metrics:
            chance[metric] = measured.pop(name)
    return measured, chance


def metrics_table(
    protocol: str,
    data: str,
    metrics: Mapping[str, float],
    figures: PaperFigures,
    splits: Mapping[str, str] | None = None,
) -> ResultTable:
    """Returns a table of all metrics, their chance levels and the paper's results.

    Args:
        protocol: name of the protocol.
        data: name of the data set.
        metrics: dict from names of metrics to values.
        figures: results in the paper for the protocol and the data set. Tables of the
            paper with many models are omitted.
        splits: dict from options to splits that differ from the paper, or None. If
            there are such splits, the results in the paper are omitted.
    """
    columns_of_models = {
        model: model_figures
        for models in figures.values()
        if len(models) <= _MAX_MODEL_COLUMNS and not splits
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
        row = [_with_unit(name), format_metric(name, value, digits)]
        if chance:
            row.append(format_metric(name, chance.get(name), 2))
        row += [_format_figure(model.get(name)) for model in columns_of_models.values()]
        rows.append(tuple(row))
    title_parts = [f"{protocol} on {data}"]
    title_parts += [f"{name} {split}" for name, split in (splits or {}).items()]
    return ResultTable(", ".join(title_parts), tuple(columns), rows)


def paper_tables(
    protocol: str, data: str, metrics: Mapping[str, float], figures: PaperFigures
) -> dict[int, ResultTable]:
    """Returns the tables of the paper by their numbers, with the measured values.

    Tables with at most three models have one column per model. Other tables have one
    row per model.
    """
    tables = {}
    for number, models in figures.items():
        names = list(dict.fromkeys(itertools.chain(*models.values())))
        digits = {name: _digits(name, models) for name in names}
        values_by_model = {
            "measured": [
                format_metric(name, metrics.get(name), digits[name]) for name in names
            ]
        }
        for model, model_figures in models.items():
            values_by_model[model] = [
                _format_figure(model_figures.get(name)) for name in names
            ]
        labels = [_with_unit(name) for name in names]
        columns = ("model", *labels)
        rows = [(model, *values) for model, values in values_by_model.items()]
        if len(models) <= _MAX_MODEL_COLUMNS:
            columns = ("metric", *values_by_model)
            rows = list(zip(labels, *values_by_model.values(), strict=True))
        title = f"Table {number}: {protocol} on {data}{_count_note(metrics)}"
        tables[number] = ResultTable(title, columns, rows)
    return tables


def _count_note(metrics: Mapping[str, float]) -> str:
    """Returns the numbers of queries and candidates in parentheses, or ""."""
    parts = []
    for name, queries in metrics.items():
        prefix = name.removesuffix("queries")
        if prefix != name and f"{prefix}candidates" in metrics:
            candidates = metrics[f"{prefix}candidates"]
            label = f"{prefix.rstrip('/')}: " if prefix else ""
            parts.append(f"{label}{queries:,.0f} queries among {candidates:,.0f}")
    return f" ({', '.join(parts)})" if parts else ""


def tables_of_many_models(
    protocol: str,
    data: str,
    metrics: Mapping[str, float],
    figures: PaperFigures,
    splits: Mapping[str, str] | None = None,
) -> list[ResultTable]:
    """Returns the tables of the paper that `metrics_table` omits."""
    tables = {} if splits else paper_tables(protocol, data, metrics, figures)
    return [table for table in tables.values() if table.columns[0] == "model"]


def _digits(name: str, models: Mapping[str, Mapping[str, float]]) -> int:
    """Returns the number of decimals that the paper prints, at least one."""
    printed = [_format_figure(figures.get(name)) for figures in models.values()]
    return max([1, *(len(text.partition(".")[2]) for text in printed)])


def _format_figure(value: float | None) -> str:
    """Returns a result of the paper with one decimal or, if it has two, with two."""
    if value is None:
        return ""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


class MetricSlice(NamedTuple):
    """Metric of one group of items with its 95% interval."""

    metric: str
    group: str
    value: float
    low: float
    high: float
    items: int


def split_slices(slices: Mapping[str, float]) -> list[MetricSlice]:
    """Parses the result of `sliced_metrics`.

    Args:
        slices: mapping with the keys `METRIC[GROUP]`, `METRIC[GROUP]/low`,
            `METRIC[GROUP]/high` and `METRIC[GROUP]/items`.
    """
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
    """Returns a table of metrics by group, with their intervals."""
    rows = []
    for cell in split_slices(slices):
        low = format_metric(cell.metric, cell.low)
        high = format_metric(cell.metric, cell.high)
        row = (
            _with_unit(f"{cell.metric}[{cell.group}]", cell.metric),
            format_metric(cell.metric, cell.value),
            f"{low}–{high}",
            f"{cell.items:,}",
        )
        rows.append(row)
    return ResultTable(title, ("metric", "measured", "95% interval", "items"), rows)
