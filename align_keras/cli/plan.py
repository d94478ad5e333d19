"""`align-keras plan`: estimates the cost of training, of an index or of a corpus."""

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from align_keras.cli.common import print_json, print_table
from align_keras.cli.train import add_config_arguments
from align_keras.planning import (
    DEVICE_KINDS,
    NUM_CLASSES,
    NUM_IMAGES,
    TEXT_UTILIZATION,
    UTILIZATION,
)
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

# Key of the estimates → title, unit, and the value of one unit.
_SECTIONS = {
    "parameters": ("parameters", "million", 1e6),
    "flops": ("operations per step, all devices", "TFLOP", 1e12),
    "memory": ("memory per device", "GiB", 2**30),
    "traffic": ("traffic per device and step", "GB", 1e9),
}
# Options that only the plan of a training uses, and those of an index.
_TRAINING_OPTIONS = (
    "experiment",
    "config_file",
    "params_override",
    "protocol",
    "num_classes",
    "devices",
    "device_kind",
    "utilization",
    "text_utilization",
)
_INDEX_OPTIONS = ("model", "vectors")
# Model that the paper uses in the protocols that train (tables 5 to 7).
PROTOCOL_MODEL = "align_l2_large"


@dataclasses.dataclass
class _Table:
    """Table of a plan.

    Attributes:
        title: str, printed above the table.
        columns: names of the columns.
        rows: cells of each row, or None for a horizontal line.
        notes: lines that are printed below the table.
    """

    title: str
    columns: Sequence[str]
    rows: list[tuple | None]
    notes: Sequence[str] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from align_keras.config import experiments

    add_config_arguments(parser)
    parser.add_argument(
        "--protocol",
        metavar="P",
        help="plan the training of a protocol of `align-keras evaluate` instead of an "
        f"experiment ({', '.join(experiments('evaluation'))}). --config_file and "
        "--params_override change the recipe of the protocol, and --experiment names "
        f"the model (default: {PROTOCOL_MODEL}).",
    )
    parser.add_argument(
        "--num-images",
        type=int,
        metavar="N",
        help="with --protocol: number of training images (default: "
        f"{NUM_IMAGES}, as in ImageNet). With --corpus: number of images to store "
        "(default: one per pair).",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="with --protocol: number of classes of the training images (default: "
        f"{NUM_CLASSES}, as in ImageNet)",
    )
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="number of devices (replicas). Each of the two cores of a TPU v2 or v3 "
        "chip counts as a device (default: the smallest number with enough memory).",
    )
    parser.add_argument(
        "--device-kind",
        metavar="K",
        help=f"kind of the devices: {', '.join(DEVICE_KINDS)}",
    )
    parser.add_argument(
        "--index",
        type=int,
        metavar="N",
        help="plan a search index of N images instead: disk space, memory and the time "
        "of a query",
    )
    parser.add_argument(
        "--corpus",
        type=int,
        metavar="N",
        help="plan `align-keras corpus build` with N pairs instead: time, disk space, "
        "memory and workers",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="with --index: name of a preset, such as align_l2_large, or any model of "
        "`align-keras index --model` (default: align_small_en)",
    )
    parser.add_argument(
        "--vectors",
        metavar="TYPE",
        help="with --index: float32, float16 or int8, as in `align-keras index "
        "--vectors` (default: float32)",
    )
    parser.add_argument(
        "--utilization",
        type=float,
        metavar="U",
        help="fraction of the peak speed of the devices that the image encoder "
        "reaches. Published trainings of EfficientNet on TPU v3 reach 0.05 to 0.11 "
        f"(default: {UTILIZATION}).",
    )
    parser.add_argument(
        "--text-utilization",
        type=float,
        metavar="U",
        help="fraction of the peak speed that the text encoder and the loss reach "
        f"(default: {TEXT_UTILIZATION}, as BERT-large on TPU v3 in arXiv 1904.00962)",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.index is None:
        _refuse_without("index", _given_options(arguments, _INDEX_OPTIONS))
    if arguments.index is not None:
        names = ("corpus", "num_images", *_TRAINING_OPTIONS)
        _refuse_with("index", arguments.index, _given_options(arguments, names))
        estimates, tables = _plan_index(arguments)
    elif arguments.corpus is not None:
        given = _given_options(arguments, _TRAINING_OPTIONS)
        _refuse_with("corpus", arguments.corpus, given)
        estimates, tables = _plan_corpus(arguments)
    else:
        estimates, tables = _plan_run(arguments)
    if arguments.json:
        print_json(estimates)
        return 0
    for table in tables:
        print_table(table.title, table.columns, table.rows)
        for note in table.notes:
            print(note)
    return 0


def _given_options(
    arguments: argparse.Namespace, names: Iterable[str]
) -> dict[str, Any]:
    """Returns the options that the user has set, by name."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value not in (None, [])}


def _refuse_with(plan: str, size: int, options: dict[str, Any]) -> None:
    """Raises if there are options that another argument does not use."""
    for name, value in options.items():
        received = ",".join(value) if isinstance(value, list) else value
        raise InputError(
            f"`{name}` must not be used with `{plan}`. Received: {name}={received} "
            f"with {plan}={size}. Leave `{name}` out."
        )


def _refuse_without(required: str, options: dict[str, Any]) -> None:
    """Raises if there are options that require another argument, which is missing."""
    for name, value in options.items():
        raise InputError(
            f"`{name}` must be used with `{required}`. Received: {name}={value} "
            f"without {required}. Leave `{name}` out."
        )


def _plan_run(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[_Table]]:
    """Plans the training of an experiment, or the training in a protocol.

    Returns:
        tuple of the estimates, a dict for JSON, and the tables to print.
    """
    from align_keras import planning
    from align_keras.config import load_config, load_recipe

    if arguments.device_kind is None:
        raise InputError(
            f"`device_kind` must be one of {', '.join(DEVICE_KINDS)}. Received: "
            "device_kind=None. Set a device kind, or use `index` or `corpus` to plan "
            "an index or a corpus."
        )
    recipe_sizes = _given_options(arguments, ("num_images", "num_classes"))
    if not arguments.protocol:
        _refuse_without("protocol", recipe_sizes)
    config_files = arguments.config_file
    overrides = arguments.params_override
    names = ("device_kind", "devices", "utilization", "text_utilization")
    options = _given_options(arguments, names)
    if not arguments.protocol:
        config = load_config(arguments.experiment, config_files, overrides)
        estimates = planning.plan(config, **options)
        return estimates, [_run_table(estimates, arguments.device_kind)]
    recipe = load_recipe(arguments.protocol, config_files, overrides)
    model = load_config(arguments.experiment or PROTOCOL_MODEL).task.model
    estimates = planning.plan_recipe(recipe, model, **options, **recipe_sizes)
    tables = [
        _run_table(summary, arguments.device_kind, f"{arguments.protocol}, {stage}")
        for stage, summary in estimates["stages"].items()
    ]
    return {"protocol": arguments.protocol, **estimates}, tables


def _plan_index(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[_Table]]:
    """Plans a search index.

    Returns:
        tuple of the estimates, a dict for JSON, and the tables to print.
    """
    from align_keras.planning import plan_index
    from align_keras.planning.size_plans import MAX_ITEMS

    # The name of the option differs from that of the argument of `plan_index`.
    check_number("`index`", arguments.index, 1, MAX_ITEMS, whole=True)
    dimension = _dimension(arguments.model)
    vectors = arguments.vectors or "float32"
    estimates = plan_index(arguments.index, dimension, vectors=vectors)
    disk = estimates["disk"]
    exact_disk = disk["vectors"] + disk["facts"]
    approximate_disk = disk["codes"] and exact_disk + disk["codes"]
    rows: list[tuple | None] = [
        _index_row("disk space, GB", [exact_disk, approximate_disk], 1e9),
        _index_row("memory read by a query, GB", estimates["memory"].values(), 1e9),
        _index_row("query on one core, s", estimates["query_seconds"].values(), 1),
    ]
    title = f"{arguments.index:,} images, embeddings of {dimension} {vectors} numbers"
    columns = ("", "exact", "approximate")
    return estimates, [_Table(title, columns, rows, [estimates["source"]])]


def _index_row(name: str, values: Iterable[float | None], unit: float) -> tuple:
    """Returns a row of the table of an index. Missing values become dashes."""
    return (name, *(_format_number(value / unit) if value else "–" for value in values))


def _plan_corpus(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[_Table]]:
    """Plans a training corpus.

    Returns:
        tuple of the estimates, a dict for JSON, and the tables to print.
    """
    from align_keras.planning import plan_corpus
    from align_keras.planning.size_plans import MAX_ITEMS

    # The names of the options differ from those of the arguments of `plan_corpus`.
    check_number("`corpus`", arguments.corpus, 1, MAX_ITEMS, whole=True)
    if arguments.num_images is not None:
        check_number("`num_images`", arguments.num_images, 1, MAX_ITEMS, whole=True)
    days = 7
    estimates = plan_corpus(arguments.corpus, arguments.num_images, days=days)
    seconds = estimates["core_seconds"]
    disk = estimates["disk"]
    memory = estimates["memory"]
    amounts = [
        ("extract pairs from pages, core hours", seconds["extract"] / 3600),
        ("filter texts, core hours", seconds["filter"] / 3600),
        ("decode and store images, core hours", seconds["images"] / 3600),
        ("find duplicates by hash, core hours", seconds["copies"] / 3600),
        (f"workers to finish in {days} days", estimates["workers"]),
        ("disk space for pairs, GB", disk["pairs"] / 1e9),
        ("disk space for images, GB", disk["images"] / 1e9),
        ("memory per worker, GiB", memory["worker"] / 2**30),
        ("memory to find duplicates, GiB", memory["copies"] / 2**30),
    ]
    title = f"{estimates['pairs']:,} pairs, {estimates['images']:,} images stored"
    rows: list[tuple | None] = [
        (name, _format_number(value)) for name, value in amounts
    ]
    return estimates, [_Table(title, ("", "amount"), rows, [estimates["source"]])]


def _dimension(model: str | None) -> int:
    """Returns the dimension of the embeddings of a model.

    The dimension of a preset is read from the table of presets, so that TensorFlow is
    not imported.
    """
    from align_keras.models.preset_table import preset_names, presets

    if model in preset_names():
        return next(
            preset.projection_dim for preset in presets() if preset.name == model
        )
    from align_keras.embedders import load_model
    from align_keras.embedders.locations import DEFAULT_MODEL

    return load_model(model or DEFAULT_MODEL).dimension


def _run_table(
    summary: dict[str, Any], device_kind: str, stage: str | None = None
) -> _Table:
    """Returns the table of a training run.

    If the run exceeds the memory of a device, the notes of the table name options that
    reduce the memory.

    Args:
        summary: dict, result of `planning.plan`.
        device_kind: str, name of a device kind.
        stage: str, protocol and stage of a recipe, or None for an experiment.
    """
    rows: list[tuple | None] = []
    for key, (name, unit, size) in _SECTIONS.items():
        rows.append((name, _format_number(sum(summary[key].values()) / size), unit))
        for part, amount in summary[key].items():
            rows.append((f"  {part}", _format_number(amount / size), ""))
        rows.append(None)
    utilization = f"{100 * summary['utilization']:g}%"
    if not stage:
        utilization += f" (text {100 * summary['text_utilization']:g}%)"
    peak = f"{summary['peak_flops'] / 1e12:g} TFLOPS"
    time = f"{summary['train_steps']:,} steps at {utilization} of {peak}"
    rows.append((time, _format_number(summary["days"]), "days"))
    rows.append(("  per step", _format_number(sum(summary["seconds"].values())), "s"))
    for part, seconds in summary["seconds"].items():
        rows.append((f"    {part}", _format_number(seconds), ""))
    devices = summary["devices"]
    examples = f"{summary['batch_size'] // devices:,} {'images' if stage else 'pairs'}"
    title = f"{devices:,} × {device_kind}, {examples} per device"
    if stage:
        title = f"{stage}: {title}"
    table = _Table(title, ("part", "amount", "unit"), rows)
    if summary["fits"] is not False:
        return table
    options = "rematerialize=true, micro_batch_size"
    if not stage:
        options = (
            "rematerialize=true in task.model.image_encoder and in "
            "task.model.text_encoder, task.train_data.micro_batch_size"
        )
    remedy = (
        f"The run exceeds the {summary['device_memory'] / 2**30:g} GiB of a device. To "
        f"reduce its memory, set {options} or "
        "runtime.mixed_precision_dtype=mixed_bfloat16, or use more devices."
    )
    return dataclasses.replace(table, notes=[remedy])


def _format_number(value: float) -> str:
    """Formats a number with two decimals, or with two significant digits below 0.1."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"
