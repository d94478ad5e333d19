"""Every table of the paper whose data is there."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from align_keras.protocols.data_sets import NAMED, missing, what_to_prepare
from align_keras.protocols.evaluate import (
    PROTOCOLS,
    check_results,
    model_name,
    open_encoders,
)
from align_keras.protocols.protocol import Request
from align_keras.reports.result_tables import figures_as_shares, paper_results
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

# Of CLIP's prompts and class names, which the paper takes.
_CLIP = "clip:imagenet1k"


@dataclasses.dataclass(frozen=True)
class SuiteRow:
    """One protocol on one data set: its tables in the paper, its metrics, or why it was
    skipped (what to download first) or failed; empty where it wasn't.
    """

    tables: tuple[int, ...]
    protocol: str
    data: str
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: str = ""
    failed: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields with the paper's figures, as the command prints them."""
        figures = figures_as_shares(self.protocol, self.data)
        return dataclasses.asdict(self) | {"paper": figures}


def run_suite(model: Any, cache: Any = None, **options: Any) -> Iterator[SuiteRow]:
    """Runs what can be run, and says of the rest what is missing, in the paper's order;
    model and options are those of `align_keras.evaluate`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    check_results(Request(results=given.get("results")))
    tables: dict[tuple[str, str], set[int]] = {}
    for result in paper_results():
        tables.setdefault((result.protocol, result.data), set()).add(result.table)
    rows = []
    for (name, data), numbers in tables.items():
        request = _request(name, data, given)
        lacks = _what_lacks(PROTOCOLS[name], request, model)
        row = SuiteRow(tuple(sorted(numbers)), name, data, skipped=lacks)
        rows.append((row, request))
    # The model is looked for where there is something to measure.
    check = not all(row.skipped for row, _ in rows)
    engines = {key: given[key] for key in ("image_engine", "engine") if key in given}
    encoders = open_encoders(model, Request(**engines), cache, check)
    for row, request in rows:
        yield row if row.skipped else _measured(row, request, encoders)


def _request(name, data, given):
    taken = {key: value for key, value in given.items() if PROTOCOLS[name].takes(key)}
    if name == "zero_shot":
        taken |= {"templates": _CLIP, "classes": _CLIP}
    return Request(data=data, **taken)


def _what_lacks(protocol, request, model):
    from align_keras.protocols.open_model import is_export

    needs = [what_to_download(protocol.name, request)]
    if protocol.needs != "embeddings" and is_export(model_name(model)):
        needs.append(f"needs the run folder, but {model_name(model)} is an export")
    return "; ".join(filter(None, needs))


def what_to_download(protocol: str, request: Request) -> str:
    """Says what a protocol needs that isn't there; empty where all is there."""
    if request.data in NAMED:
        absent = missing(request.data, request.data_root)
        return f"download {absent}" if absent else ""
    from align_keras.datasets import benchmarks
    from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

    if request.data == "vtab":
        return what_to_prepare(task.builder for task in VTAB_TASKS.values())
    needs = [what_to_prepare([request.data])]
    if protocol == "zero_shot":
        try:
            benchmarks.read_templates(_CLIP)
        except InputError as error:
            needs.append(str(error).rstrip("."))
    return "; ".join(filter(None, needs))


def _measured(row, request, encoders):
    say(f"{row.protocol} on {row.data}")
    try:
        metrics = PROTOCOLS[row.protocol].run(encoders, request).metrics
    except InputError as error:
        say(f"{row.protocol} on {row.data}: {error}")
        return dataclasses.replace(row, failed=" ".join(str(error).split()))
    return dataclasses.replace(row, metrics=metrics)
