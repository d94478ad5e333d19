"""The paper's figures, and a protocol's metrics as tables of text beside them."""

import dataclasses
import functools
import itertools
import math
import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import yaml

_FILE = pathlib.Path(__file__).with_name("paper_results.yaml")
_VERSION = re.compile(r":\d+\.\d+\.\d+$")
# With more models than this a table has a row a model in place of a column.
_MOST_COLUMNS = 3
# What begins a metric's last part where it is a share or a correlation.
_SHARES = (
    "top_",
    "held_out_top_",
    "mean_per_class",
    "recall",
    "mean_recall",
    "chance_",
    "spearman",
)


# What parts of metrics' names are called on pages.
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


@dataclasses.dataclass(frozen=True)
class PaperResult:
    """One figure of a table of the paper, in percent, by the protocol's metric."""

    table: int
    protocol: str
    data: str
    model: str
    metric: str
    value: float


@functools.cache
def paper_results() -> tuple[PaperResult, ...]:
    """Returns the figures of the paper's tables.

    References:
        Jia et al. 2021, tables 1 to 12.
    """
    entries = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return tuple(
        PaperResult(metric=metric, value=float(value), **entry)
        for entry in entries
        for metric, value in entry.pop("results").items()
    )


def papers_figures(protocol: str, data: str) -> dict[int, dict[str, dict[str, float]]]:
    """A protocol's figures on a data set: {table: {model: {metric: percent}}}."""
    data = _VERSION.sub("", data)
    figures: dict[int, dict[str, dict[str, float]]] = {}
    for result in paper_results():
        if (result.protocol, result.data) == (protocol, data):
            models = figures.setdefault(result.table, {})
            models.setdefault(result.model, {})[result.metric] = result.value
    return figures


def figures_as_shares(protocol: str, data: str) -> dict[str, dict[str, float]]:
    """The figures of `papers_figures` in the metrics' unit, by model."""
    return {
        model: {name: round(value / 100, 6) for name, value in figures.items()}
        for of_table in papers_figures(protocol, data).values()
        for model, figures in of_table.items()
    }


class ResultTable(NamedTuple):
    """A table of text; its first column names the rows, the others hold numbers."""

    title: str
    columns: tuple
    rows: list


def is_share(name: str) -> bool:
    """Whether a metric is shown in percent: recalls, accuracies, correlations."""
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
    splits: Mapping[str, str] | None = None,
) -> ResultTable:
    """Every metric beside chance and the paper's figures, unless `splits` are others or
    many models have some.
    """
    figures = {
        model: of_model
        for of_table in papers_figures(protocol, data).values()
        if len(of_table) <= _MOST_COLUMNS and not splits
        for model, of_model in of_table.items()
    }
    metrics, chance = without_chance(metrics)
    columns = ["metric", "measured", *(["chance"] if chance else []), *figures]
    rows = []
    for name, value in metrics.items():
        row = [_labeled(name), shown(name, value, _digits(name, figures))]
        if chance:
            row.append(shown(name, chance.get(name), 2))
        row += [_figure(of_model.get(name)) for of_model in figures.values()]
        rows.append(tuple(row))
    named = ", ".join(f"{name} {split}" for name, split in (splits or {}).items())
    title = f"{protocol} on {data}" + (f", {named}" if named else "")
    return ResultTable(title, tuple(columns), rows)


def papers_tables(
    protocol: str, data: str, metrics: Mapping[str, float]
) -> dict[int, ResultTable]:
    """The paper's tables that a protocol belongs to, by number, with what was measured.
    A model has a column where there are few, else a row.
    """
    tables = {}
    for number, figures in papers_figures(protocol, data).items():
        names = list(dict.fromkeys(itertools.chain(*figures.values())))
        digits = {name: _digits(name, figures) for name in names}
        table = {
            "measured": [shown(name, metrics.get(name), digits[name]) for name in names]
        }
        for model, of_model in figures.items():
            table[model] = [_figure(of_model.get(name)) for name in names]
        labels = [_labeled(name) for name in names]
        columns, rows = ("model", *labels), [(row, *table[row]) for row in table]
        if len(figures) <= _MOST_COLUMNS:
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
    splits: Mapping[str, str] | None = None,
) -> list[ResultTable]:
    """Those of `papers_tables` that `metrics_table` leaves out."""
    tables = {} if splits else papers_tables(protocol, data, metrics)
    return [table for table in tables.values() if table.columns[0] == "model"]


def _digits(name: str, figures: Mapping[str, Mapping[str, float]]) -> int:
    """As many digits as the paper prints, at least one."""
    printed = [_figure(of_model.get(name)) for of_model in figures.values()]
    return max([1, *(len(text.partition(".")[2]) for text in printed)])


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


class Slice(NamedTuple):
    """One metric of one group, with its 95% interval."""

    metric: str
    group: str
    value: float
    low: float
    high: float
    items: int


def split_slices(slices: Mapping[str, float]) -> list[Slice]:
    """Arranges `sliced_metrics` (`METRIC[GROUP]`, with /low, /high, /items)."""
    parsed = []
    for name, value in slices.items():
        if f"{name}/low" in slices:
            metric, _, group = name.removesuffix("]").partition("[")
            low, high, items = (
                slices[f"{name}/{end}"] for end in ("low", "high", "items")
            )
            parsed.append(Slice(metric, group, value, low, high, int(items)))
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
