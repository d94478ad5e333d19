"""`align-keras plan`: estimates the cost of training."""

import argparse
from typing import Any

from align_keras.cli.common import print_json, print_table
from align_keras.cli.train import add_config_arguments
from align_keras.planning.device_kinds import (
    DEVICE_KINDS,
    TEXT_UTILIZATION,
    UTILIZATION,
)

# Key of the estimates → title, unit, and the value of one unit.
_SECTIONS = {
    "parameters": ("parameters", "million", 1e6),
    "flops": ("operations per step, all devices", "TFLOP", 1e12),
    "memory": ("memory per device", "GiB", 2**30),
    "traffic": ("traffic per device and step", "GB", 1e9),
}
# Model that the paper uses in the protocols that train (tables 5 to 7).
PROTOCOL_MODEL = "align_l2_large"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--protocol",
        metavar="P",
        help="plan the training of a protocol of `align-keras evaluate` instead of an "
        "experiment, such as imagenet_frozen. --config_file and "
        "--params_override change the recipe of the protocol, and --experiment names "
        f"the model (default: {PROTOCOL_MODEL}).",
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
        required=True,
        metavar="K",
        help=f"kind of the devices: {', '.join(DEVICE_KINDS)}",
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
    from align_keras import planning
    from align_keras.config import load_config, load_recipe

    config_files = arguments.config_file
    overrides = arguments.params_override
    names = ("device_kind", "devices", "utilization", "text_utilization")
    values = {name: getattr(arguments, name) for name in names}
    options = {name: value for name, value in values.items() if value is not None}
    if not arguments.protocol:
        config = load_config(arguments.experiment, config_files, overrides)
        estimates = planning.plan(config, **options)
        if arguments.json:
            print_json(estimates)
        else:
            _print_plan(estimates, arguments.device_kind)
        return 0
    recipe = load_recipe(arguments.protocol, config_files, overrides)
    model = load_config(arguments.experiment or PROTOCOL_MODEL).task.model
    estimates = planning.plan_recipe(recipe, model, **options)
    if arguments.json:
        print_json({"protocol": arguments.protocol, **estimates})
        return 0
    for stage, summary in estimates["stages"].items():
        _print_plan(summary, arguments.device_kind, f"{arguments.protocol}, {stage}")
    return 0


def _print_plan(
    summary: dict[str, Any], device_kind: str, stage: str | None = None
) -> None:
    """Prints a plan of an experiment, or of the stage of a protocol."""
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
    print_table(title, ("part", "amount", "unit"), rows)
    if summary["fits"] is not False:
        return
    options = "rematerialize=true, micro_batch_size"
    if not stage:
        options = (
            "rematerialize=true in task.model.image_encoder and in "
            "task.model.text_encoder, task.train_data.micro_batch_size"
        )
    print(
        f"The run exceeds the {summary['device_memory'] / 2**30:g} GiB of a device. To "
        f"reduce its memory, set {options} or "
        "runtime.mixed_precision_dtype=mixed_bfloat16, or use more devices."
    )


def _format_number(value: float) -> str:
    """Formats a number with two decimals, or with two significant digits below 0.1."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"
