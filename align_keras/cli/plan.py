"""`align-keras plan`: estimates the cost of an experiment before it runs."""

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
from align_keras.utils.errors import InputError

# Title, unit, and the value of one unit.
_SECTIONS = {
    "parameters": ("parameters", "million", 1e6),
    "flops": ("operations a step, all devices", "TFLOP", 1e12),
    "memory": ("memory of a device", "GiB", 2**30),
    "traffic": ("traffic of a device a step", "GB", 1e9),
}
# Model of the paper in the trained protocols, tables 5 to 7.
PROTOCOL_MODEL = "align_l2_large"


@dataclasses.dataclass
class _Table:
    """Table of a plan, with lines that are printed below it."""

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
        help="plan the training of this protocol of align-keras evaluate instead "
        f"({', '.join(experiments('evaluation'))}): --config_file and "
        "--params_override lie over its recipe, and --experiment names the model "
        f"(default {PROTOCOL_MODEL})",
    )
    parser.add_argument(
        "--num-images",
        type=int,
        metavar="N",
        help=f"of --protocol: images to learn from (default: ImageNet's {NUM_IMAGES})",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help=f"of --protocol: their classes (default: ImageNet's {NUM_CLASSES})",
    )
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="replicas; a TPU v2 or v3 chip has two cores, each a replica (default: "
        "the fewest that it fits)",
    )
    parser.add_argument(
        "--device-kind",
        metavar="K",
        help=f"one of {', '.join(DEVICE_KINDS)}",
    )
    parser.add_argument(
        "--index",
        type=int,
        metavar="N",
        help="plan an index of N images for searching instead: disk, memory and the "
        "time of a query",
    )
    parser.add_argument(
        "--corpus",
        type=int,
        metavar="N",
        help="plan `align-keras corpus build` of N pairs instead: time, disk, memory "
        "and workers (--num-images: of them, images to store; default N)",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="of --index: a preset's name, such as align_l2_large, or what "
        "align-keras index --model takes (default: align_small_en)",
    )
    parser.add_argument(
        "--utilization",
        type=float,
        default=UTILIZATION,
        metavar="U",
        help="share of the devices' peak that the image encoder uses (default "
        f"{UTILIZATION}: published trainings of EfficientNets on TPU v3 took 0.05 to "
        "0.11)",
    )
    parser.add_argument(
        "--text-utilization",
        type=float,
        default=TEXT_UTILIZATION,
        metavar="U",
        help="the same of the text encoder and the loss (default "
        f"{TEXT_UTILIZATION}: BERT-large on TPU v3, arXiv 1904.00962)",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.index is not None:
        estimates, tables = _plan_index(arguments)
    elif arguments.corpus is not None:
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


def _plan_run(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[_Table]]:
    """Returns the plan of an experiment or of the recipe of a protocol, and tables."""
    from align_keras import planning
    from align_keras.config import load_config, load_recipe

    if arguments.device_kind is None:
        raise InputError(
            f"device_kind must be one of {', '.join(DEVICE_KINDS)}, received nothing; "
            "name one, or plan an index by `index`, a corpus by `corpus`."
        )
    recipe_sizes = {
        name: getattr(arguments, name)
        for name in ("num_images", "num_classes")
        if getattr(arguments, name) is not None
    }
    # Argument → argument without which it has no meaning.
    needed_arguments = {"model": "index"}
    if not arguments.protocol:
        needed_arguments = dict.fromkeys(recipe_sizes, "protocol") | needed_arguments
    for name, needed in needed_arguments.items():
        if getattr(arguments, name) is not None:
            raise InputError(
                f"`{name}` is for `{needed}`, received {getattr(arguments, name)}; "
                "leave it out."
            )
    config_files = arguments.config_file
    overrides = arguments.params_override
    names = ("device_kind", "devices", "utilization", "text_utilization")
    options = {name: getattr(arguments, name) for name in names}
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
    """Returns the plan of an index and its table."""
    from align_keras.planning import plan_index

    dimension = _dimension(arguments.model)
    estimates = plan_index(arguments.index, dimension)
    disk = estimates["disk"]
    exact_disk = disk["vectors"] + disk["facts"]
    approximate_disk = disk["codes"] and exact_disk + disk["codes"]
    rows: list[tuple | None] = [
        _index_row("disk, GB", [exact_disk, approximate_disk], 1e9),
        _index_row("memory that a query reads, GB", estimates["memory"].values(), 1e9),
        _index_row("a query on one core, s", estimates["query_seconds"].values(), 1),
    ]
    title = f"{arguments.index:,} images, {dimension} numbers each"
    columns = ("", "exact", "approximate")
    return estimates, [_Table(title, columns, rows, [estimates["source"]])]


def _index_row(name: str, values: Iterable[float | None], unit: float) -> tuple:
    """Returns a row of the table of an index, with a dash for no value."""
    return (name, *(_format_number(value / unit) if value else "–" for value in values))


def _plan_corpus(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[_Table]]:
    """Returns the plan of a corpus and its table."""
    from align_keras.planning import plan_corpus

    days = 7
    estimates = plan_corpus(arguments.corpus, arguments.num_images, days=days)
    seconds = estimates["core_seconds"]
    disk = estimates["disk"]
    memory = estimates["memory"]
    amounts = [
        ("pairs out of pages, hours of a core", seconds["extract"] / 3600),
        ("text filters, hours of a core", seconds["filter"] / 3600),
        ("images decoded and stored, hours of a core", seconds["images"] / 3600),
        ("copies by their hashes, hours of a core", seconds["copies"] / 3600),
        (f"workers that take {days} days", estimates["workers"]),
        ("tables of pairs, GB", disk["pairs"] / 1e9),
        ("images, twice while it is built, GB", disk["images"] / 1e9),
        ("memory of a worker, GiB", memory["worker"] / 2**30),
        ("memory of the search for copies, GiB", memory["copies"] / 2**30),
    ]
    title = f"{estimates['pairs']:,} pairs, {estimates['images']:,} images stored"
    rows: list[tuple | None] = [
        (name, _format_number(value)) for name, value in amounts
    ]
    return estimates, [_Table(title, ("", "amount"), rows, [estimates["source"]])]


def _dimension(model: str | None) -> int:
    """Returns the dimension of a model's embeddings. A preset's is in a table."""
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
    """Returns the table of a run, with the remedy if it exceeds a device's memory.

    Args:
        summary: dict, as `planning.plan` returns it.
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
    rows.append(("  a step", _format_number(sum(summary["seconds"].values())), "s"))
    for part, seconds in summary["seconds"].items():
        rows.append((f"    {part}", _format_number(seconds), ""))
    devices = summary["devices"]
    examples = f"{summary['batch_size'] // devices:,} {'images' if stage else 'pairs'}"
    title = f"{devices:,} × {device_kind}, {examples} on each"
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
        f"More than a device's {summary['device_memory'] / 2**30:g} GiB. Less is "
        f"needed with {options}, runtime.mixed_precision_dtype=mixed_bfloat16, or more "
        "devices."
    )
    return dataclasses.replace(table, notes=[remedy])


def _format_number(value: float) -> str:
    """Formats with two digits after the point, or the first two that are not zero."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"
