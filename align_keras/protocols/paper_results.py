"""Published results of the paper, by protocol, data set and model."""

import dataclasses
import functools
import pathlib
import re

import yaml

_FILE = pathlib.Path(__file__).with_name("paper_results.yaml")
_VERSION = re.compile(r":\d+\.\d+\.\d+$")


@dataclasses.dataclass(frozen=True)
class PaperResult:
    """One number of a table of the paper.

    Attributes:
        table: number of the table.
        protocol: name of the protocol in this package.
        data: data set or setting.
        model: name of the model in the paper.
        metric: name of the protocol's metric.
        value: percent.
    """

    table: int
    protocol: str
    data: str
    model: str
    metric: str
    value: float


@functools.cache
def paper_results() -> tuple[PaperResult, ...]:
    """Returns the numbers of the paper's tables.

    References:
        Jia et al. 2021, tables 1 to 12.
    """
    entries = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return tuple(
        PaperResult(metric=metric, value=float(value), **entry)
        for entry in entries
        for metric, value in entry.pop("results").items()
    )


def paper_figures(protocol: str, data: str) -> dict[int, dict[str, dict[str, float]]]:
    """Returns the published numbers of a protocol on a data set.

    Args:
        protocol: name of a protocol.
        data: data set, with or without TFDS's version.

    Returns:
        dict from the number of a table to a dict from a model to a dict from a metric
        to percent.
    """
    data = _VERSION.sub("", data)
    figures: dict[int, dict[str, dict[str, float]]] = {}
    for result in paper_results():
        if (result.protocol, result.data) == (protocol, data):
            models = figures.setdefault(result.table, {})
            models.setdefault(result.model, {})[result.metric] = result.value
    return figures


def figures_as_shares(protocol: str, data: str) -> dict[str, dict[str, float]]:
    """Returns the numbers of `paper_figures` by model, as shares instead of percent."""
    return {
        model: {name: round(value / 100, 6) for name, value in figures.items()}
        for figures_of_models in paper_figures(protocol, data).values()
        for model, figures in figures_of_models.items()
    }
