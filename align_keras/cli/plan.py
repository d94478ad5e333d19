"""`align-keras plan`: what an experiment will take, before it runs."""

import argparse

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
        answer, tables = _plan_index(arguments)
    elif arguments.corpus is not None:
        answer, tables = _plan_corpus(arguments)
    else:
        answer, tables = _plan_run(arguments)
    if arguments.json:
        print_json(answer)
        return 0
    for title, columns, rows, *notes in tables:
        print_table(title, columns, rows)
        for note in notes:
            print(note)
    return 0


def _plan_run(arguments):
    """The plan of an experiment, or of a protocol's recipe; and its tables."""
    from align_keras import planning
    from align_keras.config import load_config, load_recipe

    if arguments.device_kind is None:
        raise InputError(
            f"device_kind must be one of {', '.join(DEVICE_KINDS)}, received nothing; "
            "name one, or plan an index by `index`, a corpus by `corpus`."
        )
    of_recipe = {
        name: getattr(arguments, name)
        for name in ("num_images", "num_classes")
        if getattr(arguments, name) is not None
    }
    refused = {} if arguments.protocol else dict.fromkeys(of_recipe, "protocol")
    for name, needed in (refused | {"model": "index"}).items():
        if getattr(arguments, name) is not None:
            raise InputError(
                f"`{name}` is for `{needed}`, received {getattr(arguments, name)}; "
                "leave it out."
            )
    layers = arguments.config_file, arguments.params_override
    names = ("device_kind", "devices", "utilization", "text_utilization")
    options = {name: getattr(arguments, name) for name in names}
    if not arguments.protocol:
        config = load_config(arguments.experiment, *layers)
        answer = planning.plan(config, **options)
        return answer, [_table_of_run(answer, arguments.device_kind)]
    recipe = load_recipe(arguments.protocol, *layers)
    model = load_config(arguments.experiment or PROTOCOL_MODEL).task.model
    answer = planning.plan_recipe(recipe, model, **options, **of_recipe)
    return {"protocol": arguments.protocol, **answer}, [
        _table_of_run(summary, arguments.device_kind, f"{arguments.protocol}, {stage}")
        for stage, summary in answer["stages"].items()
    ]


def _plan_index(arguments):
    from align_keras.planning import plan_index

    width = _dimension(arguments.model)
    planned = plan_index(arguments.index, width)
    disk, memory, seconds = (planned[k] for k in ("disk", "memory", "query_seconds"))
    both = disk["vectors"] + disk["facts"]
    codes = disk["codes"] and both + disk["codes"]
    rows = [
        (f"{name}, {unit}", *(_number(n / size) if n else "–" for n in values))
        for name, unit, size, values in (
            ("disk", "GB", 1e9, (both, codes)),
            ("memory that a query reads", "GB", 1e9, memory.values()),
            ("a query on one core", "s", 1, seconds.values()),
        )
    ]
    title = f"{arguments.index:,} images, {width} numbers each"
    return planned, [(title, ("", "exact", "approximate"), rows, planned["source"])]


def _plan_corpus(arguments):
    from align_keras.planning import plan_corpus

    days = 7
    planned = plan_corpus(arguments.corpus, arguments.num_images, days=days)
    seconds, disk, memory = (planned[k] for k in ("core_seconds", "disk", "memory"))
    rows = [
        ("pairs out of pages, hours of a core", seconds["extract"] / 3600),
        ("text filters, hours of a core", seconds["filter"] / 3600),
        ("images decoded and stored, hours of a core", seconds["images"] / 3600),
        ("copies by their hashes, hours of a core", seconds["copies"] / 3600),
        (f"workers that take {days} days", planned["workers"]),
        ("tables of pairs, GB", disk["pairs"] / 1e9),
        ("images, twice while it is built, GB", disk["images"] / 1e9),
        ("memory of a worker, GiB", memory["worker"] / 2**30),
        ("memory of the search for copies, GiB", memory["copies"] / 2**30),
    ]
    title = f"{planned['pairs']:,} pairs, {planned['images']:,} images stored"
    rows = [(name, _number(value)) for name, value in rows]
    return planned, [(title, ("", "amount"), rows, planned["source"])]


def _dimension(model):
    from align_keras.models.preset_table import preset_names, presets

    if model in preset_names():
        return next(p for p in presets() if p.name == model).projection_dim
    from align_keras.embedders import load_model
    from align_keras.embedders.locations import DEFAULT_MODEL

    return load_model(model or DEFAULT_MODEL).dimension


def _table_of_run(summary, device_kind, stage=None):
    """Title, columns and rows of a plan, and what to do where it doesn't fit."""
    rows: list[tuple | None] = []
    for key, (name, unit, size) in _SECTIONS.items():
        rows.append((name, _number(sum(summary[key].values()) / size), unit))
        for part, amount in summary[key].items():
            rows.append((f"  {part}", _number(amount / size), ""))
        rows.append(None)
    shares = summary["utilization"], summary["text_utilization"]
    image, text = (f"{100 * share:g}%" for share in shares)
    text = "" if stage else f" (text {text})"
    tera = f"{summary['peak_flops'] / 1e12:g} TFLOPS"
    time = f"{summary['train_steps']:,} steps at {image}{text} of {tera}"
    rows.append((time, _number(summary["days"]), "days"))
    rows.append(("  a step", _number(sum(summary["seconds"].values())), "s"))
    for part, seconds in summary["seconds"].items():
        rows.append((f"    {part}", _number(seconds), ""))
    devices = summary["devices"]
    each = f"{summary['batch_size'] // devices:,} {'images' if stage else 'pairs'}"
    title = f"{devices:,} × {device_kind}, {each} on each"
    table = (f"{stage}: {title}" if stage else title, ("part", "amount", "unit"), rows)
    if summary["fits"] is not False:
        return table
    options = "rematerialize=true, micro_batch_size"
    if not stage:
        options = (
            "rematerialize=true in task.model.image_encoder and in "
            "task.model.text_encoder, task.train_data.micro_batch_size"
        )
    return *table, (
        f"More than a device's {summary['device_memory'] / 2**30:g} GiB. Less is "
        f"needed with {options}, runtime.mixed_precision_dtype=mixed_bfloat16, or more "
        "devices."
    )


def _number(value):
    """Two digits after the point, or the first two that aren't zero."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"
