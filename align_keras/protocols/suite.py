"""Evaluation of a model by all protocols of the paper with available data."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from align_keras.embedders.locations import locate_model
from align_keras.protocols.paper_results import figures_as_shares, paper_results
from align_keras.protocols.protocol import Protocol, Request
from align_keras.protocols.public_data import NAMED, missing_download, preparation_steps
from align_keras.protocols.run_protocol import (
    PAPER_PROMPTS,
    PROTOCOLS,
    check_results,
    model_name,
    open_encoders,
)
from align_keras.utils.errors import InputError, check_tensorflow
from align_keras.utils.progress import say

if TYPE_CHECKING:
    from align_keras.protocols.cached_encoders import CachedEncoders


@dataclasses.dataclass(frozen=True)
class SuiteRow:
    """Result of one protocol on one data set.

    Attributes:
        tables: numbers of its tables in the paper.
        runtime: runtime that computed the embeddings, or "" without metrics.
        metrics: dict from name to value, empty if the protocol was skipped or failed.
        skipped: instruction to get the missing data, or "".
        failed: reason of a failure, or "".
    """

    tables: tuple[int, ...]
    protocol: str
    data: str
    runtime: str = ""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: str = ""
    failed: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields and the paper's figures, for the output of the command."""
        figures = figures_as_shares(self.protocol, self.data)
        return dataclasses.asdict(self) | {"paper": figures}


def run_suite(model: Any, cache: Any = None, **options: Any) -> Iterator[SuiteRow]:
    """Runs all protocols with available data, in the order of the paper.

    For all other protocols, the row describes the data to download. The arguments are
    those of `align_keras.evaluate`.
    """
    check_tensorflow("The suite of the paper")
    options = {name: value for name, value in options.items() if value is not None}
    check_results(Request(results=options.get("results")))
    tables: dict[tuple[str, str], set[int]] = {}
    for result in paper_results():
        tables.setdefault((result.protocol, result.data), set()).add(result.table)
    rows = []
    for (name, data), numbers in tables.items():
        protocol = PROTOCOLS[name]
        protocol_options = {
            key: value for key, value in options.items() if protocol.takes(key)
        }
        if name == "zero_shot":
            protocol_options |= {"templates": PAPER_PROMPTS, "classes": PAPER_PROMPTS}
        request = Request(data=data, **protocol_options)
        reason = _missing_requirements(protocol, request, model)
        row = SuiteRow(tuple(sorted(numbers)), name, data, skipped=reason)
        rows.append((row, request))
    # If at least one protocol can run, the model must exist.
    check = not all(row.skipped for row, _ in rows)
    engines = {key: options[key] for key in ("runtime", "engine") if key in options}
    encoders = open_encoders(model, Request(**engines), cache, check)
    for row, request in rows:
        yield row if row.skipped else _measured(row, request, encoders)


def _missing_requirements(protocol: Protocol, request: Request, model: Any) -> str:
    """Returns a text about missing data and missing parts of the model, or ""."""
    needs = [download_steps(protocol.name, request)]
    if protocol.needs != "embeddings" and _is_export(model):
        needs.append(f"Needs the run folder, but {model_name(model)} is an export")
    return ". ".join(filter(None, needs))


def _is_export(model: Any) -> bool:
    """Returns True if a model only computes embeddings and cannot be trained."""
    if not isinstance(model, str | pathlib.Path):
        return getattr(model, "align", model) is None
    try:
        return "keras" not in locate_model(model).runtimes
    except InputError:
        # The same error is raised later, when a protocol opens the model.
        return False


def download_steps(protocol: str, request: Request) -> str:
    """Returns an instruction to get missing data, or "" if all data are available."""
    if request.data in NAMED:
        download = missing_download(request.data, request.data_root)
        return f"Download {download}" if download else ""
    from align_keras.datasets import benchmarks
    from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

    if request.data == "vtab":
        return preparation_steps(task.builder for task in VTAB_TASKS.values())
    needs = [preparation_steps([request.data])]
    if protocol == "zero_shot":
        try:
            benchmarks.read_templates(PAPER_PROMPTS)
        except InputError as error:
            needs.append(str(error).rstrip("."))
    return ". ".join(filter(None, needs))


def _measured(row: SuiteRow, request: Request, encoders: "CachedEncoders") -> SuiteRow:
    """Runs a protocol, and returns its row with the metrics or the failure."""
    say(f"{row.protocol} on {row.data}")
    try:
        metrics = PROTOCOLS[row.protocol](encoders, request).metrics
    except (InputError, OSError) as error:
        say(f"{row.protocol} on {row.data}: {error}")
        return dataclasses.replace(row, failed=" ".join(str(error).split()))
    return dataclasses.replace(row, runtime=encoders.model.runtime, metrics=metrics)
