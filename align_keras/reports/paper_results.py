"""What the paper measured, to stand beside what we measure."""

import dataclasses
import functools
import pathlib
import re

import yaml

_FILE = pathlib.Path(__file__).with_name("paper_results.yaml")
_VERSION = re.compile(r":\d+\.\d+\.\d+$")


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
