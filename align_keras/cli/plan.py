"""`align-keras plan`: what an experiment will take, before it runs."""

import argparse
import json
from typing import Any

from align_keras.cli.train import add_config_arguments
from align_keras.planning import (
    DEVICE_KINDS,
    NUM_CLASSES,
    NUM_IMAGES,
    TEXT_UTILIZATION,
    UTILIZATION,
)
from align_keras.utils.errors import InputError

# Title, unit, what a unit is.
_SECTIONS = {
    "parameters": ("parameters", "million", 1e6),
    "flops": ("operations a step, all devices", "TFLOP", 1e12),
    "memory": ("memory of a device", "GiB", 2**30),
    "traffic": ("traffic of a device a step", "GB", 1e9),
}
# The paper's model, whose trained protocols are tables 5 to 7.
PROTOCOL_MODEL = "align_l2_large"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments to its parser."""
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
    for option in ("--utilisation", "--text-utilisation"):  # As they once were spelled.
        name = option[2:].replace("-", "_").replace("isation", "ization")
        parser.add_argument(
            option,
            dest=name,
            type=float,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from align_keras import planning
    from align_keras.config import load_config, load_recipe

    if arguments.index is not None:
        return _plan_index(arguments)
    if arguments.corpus is not None:
        return _plan_corpus(arguments)
    if arguments.device_kind is None:
        raise InputError(
            f"--device-kind must be one of {', '.join(DEVICE_KINDS)}, received "
            "nothing; name one, or plan an index by --index, a corpus by --corpus."
        )
    if arguments.model is not None:
        raise InputError(
            f"--model is for --index, received {arguments.model}; leave it out."
        )
    layers = arguments.config_file, arguments.params_override
    options = {
        "device_kind": arguments.device_kind,
        "devices": arguments.devices,
        "utilization": arguments.utilization,
        "text_utilization": arguments.text_utilization,
    }
    numbers = {
        "num_images": arguments.num_images,
        "num_classes": arguments.num_classes,
    }
    numbers = {name: number for name, number in numbers.items() if number is not None}
    if arguments.protocol:
        recipe = load_recipe(arguments.protocol, *layers)
        model = load_config(arguments.experiment or PROTOCOL_MODEL).task.model
        answer = planning.plan_recipe(recipe, model, **options, **numbers)
        answer = {"protocol": arguments.protocol, **answer}
        stages = answer["stages"]
    else:
        for name, number in numbers.items():
            option = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{option} is for --protocol, received {number}; leave it out."
            )
        config = load_config(arguments.experiment, *layers)
        answer = planning.plan(config, **options)
        stages = {"train": answer}
    if arguments.json:
        print(json.dumps(answer, indent=1))
        return 0
    for stage, summary in stages.items():
        devices = summary["devices"]
        title = f"{devices:,} × {arguments.device_kind}, "
        title += f"{summary['batch_size'] // devices:,}"
        if arguments.protocol:
            title = f"{arguments.protocol}, {stage}: {title} images on each"
        else:
            title += " pairs on each"
        print_plan(summary, title, is_recipe=bool(arguments.protocol))
    return 0


def _plan_index(arguments):
    from rich.console import Console
    from rich.table import Table

    from align_keras.planning import plan_index

    width = _dimension(arguments.model)
    planned = plan_index(arguments.index, width)
    if arguments.json:
        print(json.dumps(planned, indent=1))
        return 0
    table = Table(title=f"{arguments.index:,} images, {width} numbers each")
    table.add_column("")
    for name in ("exact", "approximate"):
        table.add_column(name, justify="right")
    disk, memory, seconds = (planned[k] for k in ("disk", "memory", "query_seconds"))
    both = disk["vectors"] + disk["facts"]
    codes = disk["codes"] and both + disk["codes"]
    for name, unit, size, values in (
        ("disk", "GB", 1e9, (both, codes)),
        ("memory that a query reads", "GB", 1e9, memory.values()),
        ("a query on two cores", "s", 1, seconds.values()),
    ):
        amounts = (_number(value / size) if value else "–" for value in values)
        table.add_row(f"{name}, {unit}", *amounts)
    Console().print(table)
    return 0


def _plan_corpus(arguments):
    from rich.console import Console
    from rich.table import Table

    from align_keras.planning import plan_corpus

    days = 7
    planned = plan_corpus(arguments.corpus, arguments.num_images, days=days)
    if arguments.json:
        print(json.dumps(planned, indent=1))
        return 0
    table = Table(
        title=f"{planned['pairs']:,} pairs, {planned['images']:,} images stored"
    )
    table.add_column("")
    table.add_column("amount", justify="right")
    seconds, disk, memory = (planned[k] for k in ("core_seconds", "disk", "memory"))
    for name, value in (
        ("pairs out of pages, hours of a core", seconds["extract"] / 3600),
        ("text filters, hours of a core", seconds["filter"] / 3600),
        ("images decoded and stored, hours of a core", seconds["images"] / 3600),
        ("copies by their hashes, hours of a core", seconds["copies"] / 3600),
        (f"workers that take {days} days", planned["workers"]),
        ("tables of pairs, GB", disk["pairs"] / 1e9),
        ("images, twice while it is built, GB", disk["images"] / 1e9),
        ("memory of a worker, GiB", memory["worker"] / 2**30),
        ("memory of the search for copies, GiB", memory["copies"] / 2**30),
    ):
        table.add_row(name, _number(value))
    Console().print(table)
    return 0


def _dimension(model):
    from align_keras.models.preset_table import preset_names, presets

    if model in preset_names():
        return next(p for p in presets() if p.name == model).projection_dim
    from align_keras.search.towers import DEFAULT_MODEL, open_model

    return open_model(model or DEFAULT_MODEL).dimension


def print_plan(summary: dict[str, Any], title: str, is_recipe: bool = False) -> None:
    """Prints the plan to stdout as a table, and what to do where it doesn't fit."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    table.add_column("part")
    table.add_column("amount", justify="right")
    table.add_column("unit")
    for key, (name, unit, size) in _SECTIONS.items():
        parts = {name: sum(summary[key].values()), **summary[key]}
        for part, amount in parts.items():
            is_total = part == name
            label = f"[bold]{part}" if is_total else f"  {part}"
            table.add_row(label, _number(amount / size), unit if is_total else "")
        table.add_section()
    shares = summary["utilization"], summary["text_utilization"]
    image, text = (f"{100 * share:g}%" for share in shares)
    tera = f"{summary['peak_flops'] / 1e12:g} TFLOPS"
    text = "" if is_recipe else f" (text {text})"
    time = f"{summary['train_steps']:,} steps at {image}{text} of {tera}"
    table.add_row(f"[bold]{time}", _number(summary["days"]), "days")
    table.add_row("  a step", _number(sum(summary["seconds"].values())), "s")
    for part, seconds in summary["seconds"].items():
        table.add_row(f"    {part}", _number(seconds))
    console = Console()
    console.print(table)
    if summary["fits"] is False:
        options = (
            "rematerialize=true, micro_batch_size, "
            if is_recipe
            else "rematerialize=true in task.model.image_encoder and in "
            "task.model.text_encoder, task.train_data.micro_batch_size, "
        )
        console.print(
            f"More than a device's {summary['device_memory'] / 2**30:g} GiB. Less is "
            f"needed with {options}runtime.mixed_precision_dtype=mixed_bfloat16, or "
            "more devices.",
            highlight=False,
        )


def _number(value):
    """Two digits after the point, or the first two that aren't zero."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"
