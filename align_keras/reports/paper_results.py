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
    """One figure of the paper.

    Attributes:
        table: int, the table's number.
        protocol: str, such as `"retrieval"`.
        data: str, the data set, such as `"flickr30k"`.
        model: str, such as `"ALIGN, zero-shot"`.
        metric: str, as the protocol yields it.
        value: float, in percent.
    """

    table: int
    protocol: str
    data: str
    model: str
    metric: str
    value: float


@functools.cache
def paper_results():
    """Returns the figures of the paper's tables, a tuple of `PaperResult`.

    References:
        Jia et al. 2021, tables 1 to 12.

    Example:

    >>> [result.value for result in paper_results()
    ...  if result.data == "imagenet_r" and result.model.startswith("ALIGN")]
    [92.2]
    """
    entries = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return tuple(
        PaperResult(metric=metric, value=float(value), **entry)
        for entry in entries
        for metric, value in entry.pop("results").items()
    )


def papers_figures(protocol, data):
    """The figures that one protocol on one data set is compared to.

    Args:
        protocol: str.
        data: str, the data set's name, of TFDS's with or without a version.

    Returns:
        dict, the table's number → dict of model → dict of metric → percent.

    Example:

    >>> papers_figures("zero_shot", "imagenet_r")
    {4: {'ALIGN, zero-shot': {'zero_shot/top_1': 92.2},
         'CLIP, zero-shot': {'zero_shot/top_1': 88.9}}}
    """
    data, figures = _VERSION.sub("", data), {}
    for result in paper_results():
        if (result.protocol, result.data) == (protocol, data):
            models = figures.setdefault(result.table, {})
            models.setdefault(result.model, {})[result.metric] = result.value
    return figures


def figures_as_shares(protocol, data):
    """The figures of `papers_figures` in the metrics' unit, not in percent.

    Args:
        protocol: str.
        data: str, the data set's name.

    Returns:
        dict of model → dict of metric → float; empty where the paper has none.
    """
    return {
        model: {name: round(value / 100, 6) for name, value in figures.items()}
        for of_table in papers_figures(protocol, data).values()
        for model, figures in of_table.items()
    }
