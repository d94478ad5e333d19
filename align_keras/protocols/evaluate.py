"""Measures a model by a benchmark of the paper, or by all whose data is there."""

import dataclasses
import difflib
import importlib.util
import pathlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from align_keras.embedders import load_model
from align_keras.embedders.locations import (
    check_runtime,
    choose_runtime,
    keras_or_auto,
    locate_model,
)
from align_keras.protocols import captions, classes, fine_tuning
from align_keras.protocols.classes import unusual_splits
from align_keras.protocols.data_sets import NAMED, missing, what_to_prepare
from align_keras.protocols.protocol import OPTIONS, Evaluation, Request, some
from align_keras.utils.arguments import check_number, refuse_unknown
from align_keras.utils.errors import InputError
from align_keras.utils.files import replaceable_file
from align_keras.utils.tasks import LOCAL, is_cluster

if TYPE_CHECKING:
    from align_keras.embedders import Embedder
    from align_keras.models import ALIGN
    from align_keras.protocols.embedding_cache import CachedEncoders

# In the order of the paper's tables.
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        *(captions.retrieval, captions.cxc_retrieval, captions.cxc_similarity),
        *(classes.zero_shot, fine_tuning.imagenet_frozen, fine_tuning.imagenet_full),
        *(fine_tuning.vtab, fine_tuning.fine_grained),
        *(classes.knn, classes.linear_probe),
        *(captions.multi30k, captions.simlex, captions.composed),
    )
}
# CLIP's prompts and class names, which the paper takes (section 5.2).
_CLIP = "clip:imagenet1k"


def evaluate(
    model: "str | pathlib.Path | ALIGN | Embedder",
    protocol: str,
    data: str | None = None,
    *,
    html: str | pathlib.Path | None = None,
    cache: str | pathlib.Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measures a model by a protocol of the paper, as `align-keras evaluate` does.

    Args:
        model: as `align_keras.load_model` takes it. Keras models are opened by Keras,
            unless `runtime` names another runtime.
        protocol: a name of `PROTOCOLS`, such as `"retrieval"`.
        data: a data set or the path of one, as `--data`; by default the paper's where
            it takes one alone.
        html: a file to write a page of results to.
        cache: folder of embeddings; by default one in the user's cache folder.
        **options: what else the protocol takes, fields of
            `align_keras.protocols.protocol.Request`, such as `split`, `slice_by` or
            `templates`.

    Returns:
        dict as the command prints it as JSON: `model`, `protocol`, `data`, `metrics`
        (name → float), `paper` (model → metric → float, the paper's figures on these
        data), and with `slice_by` the `slices`. Splits and prompts that aren't the
        paper's are included, and `paper` is empty then.

    Raises:
        InputError: for an unknown protocol, options that it doesn't take, data that
            aren't there and a model that can't be opened.

    References:
        Jia et al. 2021, sections 5.1 to 5.3 and 6.1, tables 1 to 12.

    Example:
    >>> import os, tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from align_keras import ALIGN, evaluate
    >>> align = ALIGN.from_preset("align_nano", vocabulary=["[PAD]", "[UNK]", "[CLS]",
    ...                           "[SEP]", "[MASK]", "dark", "light"])
    >>> folder = tempfile.mkdtemp()
    >>> with open(os.path.join(folder, "pairs.csv"), "w") as table:
    ...     _ = table.write("image,caption\\ndark.png,dark\\nlight.png,light\\n")
    >>> for name, gray in (("dark", 0), ("light", 255)):
    ...     pixels = np.full((64, 64, 3), gray, np.uint8)
    ...     Image.fromarray(pixels).save(os.path.join(folder, f"{name}.png"))
    >>> result = evaluate(align, "retrieval", table.name, cache=folder)
    >>> result["metrics"]["images"], result["metrics"]["i2t/recall_at_5"]
    (2.0, 1.0)
    """
    request = checked_request(protocol, data=data, **options)
    # What is written at the end must not fail after hours.
    if html is not None:
        check_writable("html", html, replaceable_file(html, "html").absolute().parent)
    if PROTOCOLS[protocol].needs == "weights":
        check_results(request)
    encoders = open_encoders(model, request, cache)
    found = PROTOCOLS[protocol].run(encoders, request)
    from align_keras.reports.result_tables import figures_as_shares

    unusual = unusual_options(protocol, request)
    result = {
        "model": model_name(model),
        "protocol": protocol,
        "data": request.data,
        **unusual,
        "metrics": found.metrics,
        "paper": {} if unusual else figures_as_shares(protocol, request.data),
    }
    if request.slice_by is not None:
        slices = sliced(found, request.slice_by)
        result |= {"slice_by": request.slice_by, "slices": slices}
    if html is not None:
        _write_page(html, result, request, found)
    return result


def checked_request(protocol: str, **options: Any) -> Request:
    """Returns what a protocol is asked for, or raises for what can be told at once."""
    if protocol not in PROTOCOLS:
        near = difflib.get_close_matches(protocol, PROTOCOLS, n=1)
        hint = f"did you mean {near[0]}?" if near else "choose one."
        raise InputError(
            f"protocol must be one of {', '.join(PROTOCOLS)}, received {protocol!r}; "
            f"{hint}"
        )
    given = {name: value for name, value in options.items() if value is not None}
    refuse_unknown(protocol, given, OPTIONS)
    for name, value in given.items():
        if value == "":
            raise InputError(f"{name} must not be empty, received ''; leave it out.")
        if name == "runtime":
            check_runtime(value)
    is_cluster(given.get("engine", LOCAL))
    check_number("workers", given.get("workers", 1), 1, 1e6, whole=True)
    check_number("text_weight", given.get("text_weight", 2.0), 0, 1e6)
    for name, value in given.items():
        if not PROTOCOLS[protocol].takes(name):
            takers = [known.name for known in PROTOCOLS.values() if known.takes(name)]
            raise InputError(
                f"`{name}` is for {', '.join(takers)}, received {value!r} with "
                f"{protocol}; leave it out."
            )
    if "metadata" in given and "slice_by" not in given:
        raise InputError(
            f"`metadata` is for `slice_by`, received {given['metadata']!r} without it; "
            "name one of its columns."
        )
    data = given.pop("data", PROTOCOLS[protocol].data)
    if data is not None and _has_paper_prompts(protocol, str(data)):
        given = _with_paper_prompts(given)
    if data is None:
        raise InputError(
            f"data must name what {protocol} is measured on, received nothing; name "
            f"{PROTOCOLS[protocol].data_help}."
        )
    return Request(data=str(data), **given)


def _has_paper_prompts(protocol: str, data: str) -> bool:
    """Returns True for data that the paper classifies by CLIP's prompts and names."""
    from align_keras.reports.result_tables import figures_as_shares

    return protocol == "zero_shot" and bool(figures_as_shares(protocol, data))


def _with_paper_prompts(options: dict[str, Any]) -> dict[str, Any]:
    """Adds the paper's prompts and class names to options that name neither."""
    # The error for a missing package belongs to a request that needs it.
    if "classes" in options and importlib.util.find_spec("clip_benchmark") is None:
        return options
    return {"templates": _CLIP, "classes": _CLIP} | options


def unusual_options(protocol: str, request: Request) -> dict[str, str]:
    """Returns the splits and prompts that the paper's figures don't belong to.

    Args:
        protocol: str, a name of `PROTOCOLS`.
        request: `Request`.

    Returns:
        dict from the names of options to their values, empty for the paper's own.
    """
    unusual = unusual_splits(request)
    if _has_paper_prompts(protocol, request.data):
        for name in ("templates", "classes"):
            value = getattr(request, name)
            if value != _CLIP:
                unusual[name] = str(value)
    return unusual


def check_results(request: Request) -> None:
    """Raises unless what is trained can be written to the folder of `results`."""
    from align_keras.protocols.embedding_cache import results_folder

    folder = results_folder(request.results)
    check_writable("results", folder, folder)


def check_writable(name: str, path: str | pathlib.Path, folder: pathlib.Path) -> None:
    """Raises unless files can be written to a folder, which is made, for `path`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{name} must be a place that can be written to, received {path} "
            f"({error.strerror}); choose another."
        ) from None


def model_name(model: Any) -> str:
    """Returns the name of a model in a result: its path, or the `ALIGN`'s name."""
    if isinstance(model, str | pathlib.Path):
        return str(model)
    return model.name


def open_encoders(
    model: Any, request: Request, cache: Any = None, check: bool = True
) -> "CachedEncoders":
    """Returns a model's encode functions, which open it when they are first called;
    with `check` it raises at once where there is no model.
    """
    from align_keras.protocols.embedding_cache import CachedEncoders, default_cache

    directory = pathlib.Path(cache) if cache else default_cache()
    check_writable("cache", directory, directory)
    if check and isinstance(model, str | pathlib.Path):
        choose_runtime(locate_model(model), _runtime_of(model, request))
    return CachedEncoders(
        lambda: load_model(model, _runtime_of(model, request)),
        directory,
        request.engine,
    )


def _runtime_of(model: Any, request: Request) -> str:
    """Returns the runtime of a request, which is Keras where the model has weights.

    Some protocols need the weights, and the published figures were computed by Keras.
    """
    if request.runtime is not None:
        return request.runtime
    return keras_or_auto(model) if isinstance(model, str | pathlib.Path) else "auto"


def sliced(found: Evaluation, column: str) -> dict[str, float]:
    """Every metric by the values of a column, as `sliced_metrics`, or raises."""
    from align_keras.evaluation import sliced_metrics
    from align_keras.utils.progress import say

    metrics: dict[str, float] = {}
    lacking = []
    for statistics, columns in found.items:
        Request(slice_by=column).check_columns(columns)
        values = columns[column]
        groups = ["(none)" if value in (None, "") else str(value) for value in values]
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
            f"{some(lacking, 3)}"
        )
    return metrics


def _write_page(html, result, request, found):
    from align_keras.reports.result_page import write_result_page
    from align_keras.utils.progress import say

    shown = ("data", "split", "train_split", "templates", "classes", "runtime")
    facts = {
        name: getattr(request, name)
        for name in shown
        if getattr(request, name) != OPTIONS[name].default
    }
    write_result_page(
        html,
        protocol=result["protocol"],
        data=request.data,
        facts={"model": result["model"], **facts},
        metrics=found.metrics,
        splits=unusual_options(result["protocol"], request),
        slices=result.get("slices"),
        retrieval=found.retrieval,
        classification=found.classification,
    )
    say(f"wrote {html}")


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
        from align_keras.reports.result_tables import figures_as_shares

        figures = figures_as_shares(self.protocol, self.data)
        return dataclasses.asdict(self) | {"paper": figures}


def run_suite(model: Any, cache: Any = None, **options: Any) -> Iterator[SuiteRow]:
    """Runs what can be run, and says of the rest what is missing, in the paper's order;
    model and options are those of `align_keras.evaluate`.
    """
    from align_keras.reports.result_tables import paper_results

    given = {name: value for name, value in options.items() if value is not None}
    check_results(Request(results=given.get("results")))
    tables: dict[tuple[str, str], set[int]] = {}
    for result in paper_results():
        tables.setdefault((result.protocol, result.data), set()).add(result.table)
    rows = []
    for (name, data), numbers in tables.items():
        taken = {key: given[key] for key in given if PROTOCOLS[name].takes(key)}
        if name == "zero_shot":
            taken |= {"templates": _CLIP, "classes": _CLIP}
        request = Request(data=data, **taken)
        lacks = _what_lacks(PROTOCOLS[name], request, model)
        row = SuiteRow(tuple(sorted(numbers)), name, data, skipped=lacks)
        rows.append((row, request))
    # The model is looked for where there is something to measure.
    check = not all(row.skipped for row, _ in rows)
    computed_by = {key: given[key] for key in ("runtime", "engine") if key in given}
    encoders = open_encoders(model, Request(**computed_by), cache, check)
    for row, request in rows:
        yield row if row.skipped else _measured(row, request, encoders)


def _what_lacks(protocol, request, model):
    needs = [what_to_download(protocol.name, request)]
    if protocol.needs != "embeddings" and _is_export(model):
        needs.append(f"needs the run folder, but {model_name(model)} is an export")
    return "; ".join(filter(None, needs))


def _is_export(model: Any) -> bool:
    """Returns True if a model has embeddings, and no weights that can be trained."""
    if not isinstance(model, str | pathlib.Path):
        return getattr(model, "align", model) is None
    try:
        return "keras" not in locate_model(model).runtimes
    except InputError:  # Raised later, if there is something to measure.
        return False


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
    from align_keras.utils.progress import say

    say(f"{row.protocol} on {row.data}")
    try:
        metrics = PROTOCOLS[row.protocol].run(encoders, request).metrics
    except InputError as error:
        say(f"{row.protocol} on {row.data}: {error}")
        return dataclasses.replace(row, failed=" ".join(str(error).split()))
    return dataclasses.replace(row, metrics=metrics)
