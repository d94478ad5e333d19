"""Evaluation of a model by one protocol."""

import importlib.util
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

from align_keras.embedders import load_model
from align_keras.embedders.locations import (
    check_runtime,
    choose_runtime,
    keras_or_auto,
    locate_model,
)
from align_keras.protocols import (
    caption_protocols,
    class_protocols,
    fine_tuning_protocols,
)
from align_keras.protocols.class_protocols import unusual_splits
from align_keras.protocols.paper_results import (
    figures_as_shares,
    paper_figures,
)
from align_keras.protocols.protocol import (
    OPTIONS,
    Evaluation,
    Request,
    first_names,
)
from align_keras.utils.arguments import check_choice, check_number, refuse_unknown
from align_keras.utils.errors import InputError, check_tensorflow, needs_tensorflow
from align_keras.utils.files import replaceable_file
from align_keras.utils.tasks import LOCAL, is_cluster

if TYPE_CHECKING:
    from align_keras.embedders import Embedder
    from align_keras.models import ALIGN
    from align_keras.protocols.cached_encoders import CachedEncoders

# Protocols by name. Those of the paper come first, in the order of its tables.
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        caption_protocols.retrieval,
        caption_protocols.cxc_retrieval,
        caption_protocols.cxc_similarity,
        class_protocols.zero_shot,
        fine_tuning_protocols.imagenet_frozen,
        fine_tuning_protocols.imagenet_full,
        fine_tuning_protocols.vtab,
        fine_tuning_protocols.fine_grained,
        class_protocols.knn,
        class_protocols.linear_probe,
        caption_protocols.multi30k,
        caption_protocols.simlex,
        caption_protocols.composed,
    )
}
# Prompts and class names of CLIP, which the paper uses (section 5.2).
PAPER_PROMPTS = "clip:imagenet1k"


def evaluate(
    model: "str | pathlib.Path | ALIGN | Embedder",
    protocol: str,
    data: str | None = None,
    *,
    html: str | pathlib.Path | None = None,
    cache: str | pathlib.Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluates a model by a protocol, as `align-keras evaluate` does.

    Args:
        model: model, as in `align_keras.load_model`. A model with Keras weights is
            opened by Keras, unless `runtime` is set.
        protocol: a name of `PROTOCOLS`, such as `"retrieval"`.
        data: name or path of a data set. Defaults to the data set of the paper, if the
            protocol has only one.
        html: file to write a page of results to.
        cache: folder of embeddings, by default in the user's cache folder.
        **options: other options of the protocol, fields of
            `align_keras.protocols.protocol.Request`, such as `split`, `slice_by` or
            `templates`.

    Returns:
        dict, which the command prints as JSON: `model`, `runtime`, `protocol`, `data`,
        `metrics` (name → float), `paper` (model → metric → float, the paper's figures
        on these data), and with `slice_by` the `slices`. If splits or prompts differ
        from those of the paper, they are included and `paper` is empty.

    Raises:
        InputError: if the protocol is unknown or doesn't have an option, data is
            missing, or the model can't be opened.

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
    # An evaluation may take hours, so the path of the page is checked before it begins.
    if html is not None:
        check_writable(replaceable_file(html, "html").absolute().parent)
    if PROTOCOLS[protocol].needs != "embeddings":
        check_tensorflow(f"The protocol {protocol}")
    if PROTOCOLS[protocol].needs == "weights":
        check_results(request)
    encoders = open_encoders(model, request, cache)
    with needs_tensorflow(f"The protocol {protocol} on {request.data}"):
        evaluation = PROTOCOLS[protocol](encoders, request)
    unusual = unusual_options(protocol, request)
    result = {
        "model": model_name(model),
        "runtime": encoders.model.runtime,
        "protocol": protocol,
        "data": request.data,
        **unusual,
        "metrics": evaluation.metrics,
        "paper": {} if unusual else figures_as_shares(protocol, request.data),
    }
    if request.slice_by is not None:
        slices = sliced(evaluation, request.slice_by)
        result |= {"slice_by": request.slice_by, "slices": slices}
    if html is not None:
        _write_page(html, result, request, evaluation)
    return result


def checked_request(protocol: str, **options: Any) -> Request:
    """Returns the options of a protocol. Raises InputError for invalid options."""
    check_choice("protocol", protocol, PROTOCOLS)
    options = {name: value for name, value in options.items() if value is not None}
    refuse_unknown(protocol, options, OPTIONS)
    for name, value in options.items():
        if value == "":
            raise InputError(f"{name} must not be empty. Received: {name}=''.")
        if name == "runtime":
            check_runtime(value)
    # This call raises InputError for an unknown engine.
    is_cluster(options.get("engine", LOCAL))
    check_number("workers", options.get("workers", 1), 1, 1e6, whole=True)
    check_number("text_weight", options.get("text_weight", 2.0), 0, 1e6)
    for name, value in options.items():
        if not PROTOCOLS[protocol].takes(name):
            names = [other.name for other in PROTOCOLS.values() if other.takes(name)]
            raise InputError(
                f"`{name}` is an option of {', '.join(names)}. Received: "
                f"{name}={value!r} with {protocol}."
            )
    data = options.pop("data", PROTOCOLS[protocol].data)
    if data is not None and protocol == "zero_shot":
        options = _with_prompts_of_folder(str(data)) | options
    if data is not None and _has_paper_prompts(protocol, str(data)):
        options = _with_paper_prompts(options)
    if data is None:
        raise InputError(
            f"data must be {PROTOCOLS[protocol].data_help} for {protocol}. Received: "
            "data=None."
        )
    return Request(data=str(data), **options)


def _has_paper_prompts(protocol: str, data: str) -> bool:
    """Returns True if the paper uses CLIP's prompts and class names for the data."""
    return protocol == "zero_shot" and bool(figures_as_shares(protocol, data))


def _with_paper_prompts(options: dict[str, Any]) -> dict[str, Any]:
    """Adds the paper's prompts and class names unless the options set them."""
    # Without clip-benchmark, only a request that needs it should raise an error.
    if "classes" in options and importlib.util.find_spec("clip_benchmark") is None:
        return options
    return {"templates": PAPER_PROMPTS, "classes": PAPER_PROMPTS} | options


def _with_prompts_of_folder(data: str) -> dict[str, Any]:
    """Returns the option `templates` if a folder of CLIP_benchmark has prompts."""
    from align_keras.datasets import benchmarks

    if not benchmarks.is_shard_folder(data):
        return {}
    templates = benchmarks.shard_templates(data)
    return {} if templates is None else {"templates": str(templates)}


def unusual_options(protocol: str, request: Request) -> dict[str, str]:
    """Returns the options for splits and prompts that differ from the paper.

    Args:
        protocol: a name of `PROTOCOLS`.
        request: `Request`.

    Returns:
        dict from the names of these options to their values.
    """
    unusual = unusual_splits(request)
    if _has_paper_prompts(protocol, request.data):
        for name in ("templates", "classes"):
            value = getattr(request, name)
            if value != PAPER_PROMPTS:
                unusual[name] = str(value)
    return unusual


def check_results(request: Request) -> None:
    """Creates the folder of `results`, and raises unless files can be written to it."""
    from align_keras.protocols.cached_encoders import results_folder

    folder = results_folder(request.results)
    check_writable(folder)


def check_writable(folder: pathlib.Path) -> None:
    """Creates a folder and a temporary file in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def model_name(model: Any) -> str:
    """Returns the path of a model, or the name of an `ALIGN` in memory."""
    if isinstance(model, str | pathlib.Path):
        return str(model)
    return model.name


def open_encoders(
    model: Any, request: Request, cache: Any = None, check: bool = True
) -> "CachedEncoders":
    """Returns the encode functions of a model, which is opened on the first call.

    Args:
        model: as in `evaluate`.
        request: `Request`.
        cache: folder of embeddings, or None.
        check: whether to raise immediately if the model doesn't exist.
    """
    from align_keras.protocols.cached_encoders import CachedEncoders, default_cache

    directory = pathlib.Path(cache) if cache else default_cache()
    check_writable(directory)
    if check and isinstance(model, str | pathlib.Path):
        choose_runtime(locate_model(model), _runtime_of(model, request))
    return CachedEncoders(
        lambda: load_model(model, _runtime_of(model, request)),
        directory,
        request.engine,
    )


def _runtime_of(model: Any, request: Request) -> str:
    """Returns the runtime of a request. By default, a model with weights uses Keras."""
    # Some protocols need the weights, and the published figures were computed by Keras.
    if request.runtime is not None:
        return request.runtime
    return keras_or_auto(model) if isinstance(model, str | pathlib.Path) else "auto"


def sliced(evaluation: Evaluation, column: str) -> dict[str, float]:
    """Returns all metrics for each value of a column, as `sliced_metrics` does."""
    from align_keras.evaluation import sliced_metrics
    from align_keras.utils.progress import say

    metrics: dict[str, float] = {}
    missing_metrics = []
    for items in evaluation.items:
        statistics = items.statistics
        Request(slice_by=column).check_columns(items.columns)
        values = items.columns[column]
        groups = ["(none)" if value in (None, "") else str(value) for value in values]
        metrics |= dict(sliced_metrics(statistics, groups))
        missing_metrics += [
            f"{name}[{group}]"
            for group in sorted(set(groups))
            for name in statistics
            if f"{name}[{group}]" not in metrics
        ]
    if missing_metrics:
        say(
            f"{len(missing_metrics)} metrics of groups are skipped because the groups "
            f"are too small: {first_names(missing_metrics, 3)}"
        )
    return metrics


def _write_page(
    html: str | pathlib.Path,
    result: dict[str, Any],
    request: Request,
    evaluation: Evaluation,
) -> None:
    """Writes the HTML page with the metrics and examples of a result."""
    from align_keras.reports.result_page import write_result_page
    from align_keras.utils.progress import say

    names = ("data", "split", "train_split", "templates", "classes")
    facts = {
        name: getattr(request, name)
        for name in names
        if getattr(request, name) != OPTIONS[name].default
    }
    write_result_page(
        html,
        protocol=result["protocol"],
        data=request.data,
        facts={"model": result["model"], "runtime": result["runtime"], **facts},
        metrics=evaluation.metrics,
        figures=paper_figures(result["protocol"], request.data),
        splits=unusual_options(result["protocol"], request),
        slices=result.get("slices"),
        retrieval=evaluation.retrieval,
        classification=evaluation.classification,
    )
    say(f"wrote {html}")
