"""What `align-keras evaluate` prints and writes."""

import json
import math

from rich.console import Console
from rich.table import Table

from align_keras.cli.evaluation_page import write_page
from align_keras.evaluation import sliced_metrics
from align_keras.protocols.evaluation_splits import unusual_splits
from align_keras.reports.paper_results import papers_figures
from align_keras.reports.result_page import split_slices
from align_keras.reports.result_tables import (
    ResultTable,
    metrics_table,
    shown,
    tables_of_many_models,
)
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

__all__ = ["as_json", "print_results", "print_table", "sliced", "write_page"]

# Of a table's first column, as far as it is kept whole.
_NAME_WIDTH = 36
# The group of what has no value, or an empty one.
_NO_VALUE = "(none)"
# Left-out metrics that are told.
_NAMED = 3


def sliced(found, column):
    """Every metric by the values of a column, with intervals.

    Args:
        found: `Evaluation`.
        column: str.

    Returns:
        dict, `METRIC[VALUE]` → float, and the same with `/low`, `/high`, `/items`.

    Raises:
        InputError: if the data hasn't got the column; names those that it has.
    """
    metrics, lacking = {}, []
    for statistics, columns in found.items:
        if column not in columns:
            raise InputError(
                f"--slice_by must be one of {', '.join(sorted(columns)) or 'none'}, "
                f"the columns of this data, received {column!r}."
            )
        groups = [
            _NO_VALUE if value in (None, "") else str(value)
            for value in columns[column]
        ]
        metrics |= dict(sliced_metrics(statistics, groups))
        lacking += [
            f"{name}[{group}]"
            for group in sorted(set(groups))
            for name in statistics
            if f"{name}[{group}]" not in metrics
        ]
    if lacking:
        say(
            f"{len(lacking)} metrics of groups have too few items and are left out: "
            f"{', '.join(lacking[:_NAMED])}{', …' if len(lacking) > _NAMED else ''}"
        )
    return metrics


def print_results(arguments, request, metrics, slices):
    """Prints one protocol's metrics to stdout, as tables or as JSON."""
    protocol, data = arguments.protocol, request.name
    splits = unusual_splits(request)
    if arguments.json:
        result = {
            "model": arguments.model,
            "protocol": protocol,
            "data": data,
            **splits,
            "metrics": metrics,
            "paper": {} if splits else paper_as_shares(protocol, data),
        }
        if slices:
            result |= {"slice_by": arguments.slice_by, "slices": slices}
        print(as_json(result))
        return
    print_table(metrics_table(protocol, data, metrics, splits))
    for table in tables_of_many_models(protocol, data, metrics, splits):
        print_table(table)
    if slices:
        print_table(slices_table(f"by {arguments.slice_by}", slices))


def paper_as_shares(protocol, data):
    """The paper's figures in the metrics' own unit, not in percent.

    Returns:
        dict of model → dict of metric → float; empty where the paper has none.
    """
    return {
        model: {name: round(value / 100, 6) for name, value in figures.items()}
        for of_table in papers_figures(protocol, data).values()
        for model, figures in of_table.items()
    }


def as_json(value):
    """Text of what JSON can hold: NaN and infinities become null."""
    return json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)


def _finite(value):
    if isinstance(value, dict):
        return {str(key): _finite(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_table(table):
    """Prints a `ResultTable` to stdout."""
    printed = Table(title=table.title, title_justify="left")
    # Names stay whole in 80 columns; the headings of the numbers are folded.
    widest = max((len(row[0]) for row in table.rows), default=0)
    first, *numbers = table.columns
    printed.add_column(first, overflow="fold", min_width=min(widest, _NAME_WIDTH))
    for column in numbers:
        printed.add_column(column, justify="right", overflow="fold")
    for row in table.rows:
        printed.add_row(*row)
    # Not as markup: a group may be called "[red]".
    Console(markup=False, highlight=False).print(printed)


def slices_table(title, slices):
    """A `ResultTable` of metrics by group, with their intervals."""
    rows = [
        (
            f"{own.metric}[{own.group}]",
            shown(own.metric, own.value),
            f"{shown(own.metric, own.low)}–{shown(own.metric, own.high)}",
            f"{own.items:,}",
        )
        for own in split_slices(slices)
    ]
    return ResultTable(title, ("metric", "measured", "95% interval", "items"), rows)
