"""A protocol's metrics as tables of text, beside the paper's figures."""

import math
from typing import NamedTuple

from align_keras.reports.paper_results import papers_figures

# With more models than this a table has a row a model in place of a column.
_MOST_COLUMNS = 3
# What begins a metric's last part where it is a share or a correlation.
_SHARES = (
    "top_",
    "held_out_top_",
    "recall",
    "mean_recall",
    "chance_",
    "spearman",
    "mean_per_class",
)


class ResultTable(NamedTuple):
    """A table of text.

    Attributes:
        title: str.
        columns: tuple of str; the first names the rows, the others hold numbers.
        rows: list of tuples of str.
    """

    title: str
    columns: tuple
    rows: list


def is_share(name):
    """Whether a metric is shown in percent: recalls, accuracies, correlations."""
    if name.startswith("vtab/"):
        return True
    return name.rpartition("/")[2].startswith(_SHARES)


def shown(name, value, digits=1):
    """A metric as text: in percent, or a plain number.

    Args:
        name: str, the metric's.
        value: float, or None where it wasn't measured.
        digits: int, of percents.

    Returns:
        str; `"–"` for what isn't a number.

    Example:

    >>> shown("t2i/recall_at_1", 0.756), shown("images", 5000.0)
    ('75.6', '5,000')
    """
    if value is None:
        return ""
    if not math.isfinite(value):
        return "–"
    if is_share(name):
        return f"{100 * value:.{digits}f}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def without_chance(metrics):
    """Splits metrics from their chance levels.

    Args:
        metrics: dict, name → float.

    Returns:
        Two dicts of name → float: the metrics, and the chance level of those that
        have one, under the metric's own name.

    Example:

    >>> without_chance({"i2t/recall_at_1": 0.5, "i2t/chance_recall_at_1": 0.1})
    ({'i2t/recall_at_1': 0.5}, {'i2t/recall_at_1': 0.1})
    """
    chance = {
        plain: value
        for name, value in metrics.items()
        if "chance_" in name and (plain := name.replace("chance_", "")) in metrics
    }
    plain = {
        name: value
        for name, value in metrics.items()
        if name.replace("chance_", "") not in chance or "chance_" not in name
    }
    return plain, chance


def metrics_table(protocol, data, metrics, splits=None):
    """Every metric beside its chance level and the paper's figures.

    Args:
        protocol: str.
        data: str, the data set's name.
        metrics: dict, name → float.
        splits: dict, such as `{"split": "train"}`: splits that aren't the paper's,
            with which its figures can't be compared; they are in the title then.

    Returns:
        `ResultTable`. The paper's tables of many models aren't in it; see
        `papers_tables`.
    """
    figures = {
        model: of_model
        for of_table in _figures(protocol, data, splits).values()
        if len(of_table) <= _MOST_COLUMNS
        for model, of_model in of_table.items()
    }
    metrics, chance = without_chance(metrics)
    columns = ["metric", "measured", *(["chance"] if chance else []), *figures]
    rows = []
    for name, value in metrics.items():
        row = [name, shown(name, value, _digits(name, figures))]
        if chance:
            row.append(shown(name, chance.get(name), 2))
        rows.append(
            (*row, *(_figure(of_model.get(name)) for of_model in figures.values()))
        )
    named = ", ".join(f"{name} {split}" for name, split in (splits or {}).items())
    title = f"{protocol} on {data}" + (f", {named}" if named else "")
    return ResultTable(title, tuple(columns), rows)


def _figures(protocol, data, splits):
    return {} if splits else papers_figures(protocol, data)


def papers_tables(protocol, data, metrics):
    """The paper's tables that a protocol belongs to, with what was measured.

    Args:
        protocol: str.
        data: str, the data set's name.
        metrics: dict, name → float.

    Returns:
        dict, the table's number → `ResultTable`: a column a model where they are
        few, else a row.
    """
    tables = {}
    for number, figures in papers_figures(protocol, data).items():
        names = list(
            dict.fromkeys(name for of_model in figures.values() for name in of_model)
        )
        title = f"Table {number}: {protocol} on {data}"
        measured = {
            name: shown(name, metrics.get(name), _digits(name, figures))
            for name in names
        }
        if len(figures) <= _MOST_COLUMNS:
            rows = [
                (
                    name,
                    measured[name],
                    *(_figure(of_model.get(name)) for of_model in figures.values()),
                )
                for name in names
            ]
            tables[number] = ResultTable(title, ("metric", "measured", *figures), rows)
        else:
            rows = [("measured", *measured.values())]
            rows += [
                (model, *(_figure(of_model.get(name)) for name in names))
                for model, of_model in figures.items()
            ]
            tables[number] = ResultTable(title, ("model", *names), rows)
    return tables


def tables_of_many_models(protocol, data, metrics, splits=None):
    """Those of `papers_tables` that `metrics_table` leaves out, a list."""
    tables = papers_tables(protocol, data, metrics)
    return [
        tables[number]
        for number, of_table in _figures(protocol, data, splits).items()
        if len(of_table) > _MOST_COLUMNS
    ]


def _digits(name, figures):
    """As many digits as the paper prints, at least one."""
    printed = [_figure(of_model.get(name)) for of_model in figures.values()]
    return max([1, *(len(text.partition(".")[2]) for text in printed)])


def _figure(value):
    if value is None:
        return ""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


class Slice(NamedTuple):
    """One metric of one group.

    Attributes:
        metric: str.
        group: str.
        value: float.
        low: float, where the 95% interval begins.
        high: float, where it ends.
        items: int.
    """

    metric: str
    group: str
    value: float
    low: float
    high: float
    items: int


def split_slices(slices):
    """Arranges the metrics of `sliced_metrics` by metric and group.

    Args:
        slices: dict, `METRIC[GROUP]` → float, and the same with `/low`, `/high`
            and `/items`.

    Returns:
        List of `Slice`, in their order.

    Example:

    >>> split_slices({"top_1[a]": 0.5, "top_1[a]/low": 0.25, "top_1[a]/high": 1.0,
    ...               "top_1[a]/items": 4.0})
    [Slice(metric='top_1', group='a', value=0.5, low=0.25, high=1.0, items=4)]
    """
    found = []
    for name, value in slices.items():
        if f"{name}/low" in slices:
            metric, _, group = name.removesuffix("]").partition("[")
            rest = (slices[f"{name}/{part}"] for part in ("low", "high", "items"))
            found.append(Slice(metric, group, value, *rest))
    return [cell._replace(items=int(cell.items)) for cell in found]


def slices_table(title, slices):
    """A `ResultTable` of metrics by group, with their intervals."""
    rows = [
        (
            f"{cell.metric}[{cell.group}]",
            shown(cell.metric, cell.value),
            f"{shown(cell.metric, cell.low)}–{shown(cell.metric, cell.high)}",
            f"{cell.items:,}",
        )
        for cell in split_slices(slices)
    ]
    return ResultTable(title, ("metric", "measured", "95% interval", "items"), rows)
