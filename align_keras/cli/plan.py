"""`align-keras plan`: what an experiment will take, before it runs."""

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from align_keras.cli.train import add_config_arguments
from align_keras.config import experiments, load_config, load_recipe
from align_keras.models.tower_costs import image_tower_cost, text_tower_cost
from align_keras.planning import DEVICE_KINDS, RunSizes, device_kind, plan_step
from align_keras.runs.model_sizes import (
    image_encoder_sizes,
    text_encoder_sizes,
    with_preset,
)
from align_keras.utils.errors import InputError

# Shares of the peak. EfficientNet's depthwise convolutions and normalisations leave
# most of a matrix unit idle: Wongpanich et al. 2020 trained B5 (456 pixels, 350 epochs)
# in 64 minutes on 1,024 TPU v3 cores, which is 11% of their peak, and coyo-align's
# model card tells of 8 days for B7 + BERT-base (300,000 steps of 65,536) on 512 cores:
# 5% for the image encoder, if the text encoder uses as much as below.
UTILISATION = 0.08
# You et al. 2020 (arXiv 1904.00962) trained BERT-large in 76 minutes on 2,048 TPU v3
# cores: 7,037 steps of 65,536 texts of 128 tokens and 1,562 of 32,768 of 512, about
# 1.6e20 operations, are 28% of their peak.
TEXT_UTILISATION = 0.28
# Title, unit, what a unit is.
_SECTIONS = {
    "parameters": ("parameters", "million", 1e6),
    "flops": ("operations a step, all devices", "TFLOP", 1e12),
    "memory": ("memory of a device", "GiB", 2**30),
    "traffic": ("traffic of a device a step", "GB", 1e9),
}


# ImageNet's, on which two of the protocols train.
NUM_IMAGES, NUM_CLASSES = 1_281_167, 1000
# The paper's model, whose trained protocols are tables 5 to 7.
PROTOCOL_MODEL = "align_l2_large"


def add_arguments(parser):
    """Adds the command's arguments to its parser."""
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
        default=NUM_IMAGES,
        metavar="N",
        help="of --protocol: images to learn from (default: ImageNet's %(default)s)",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        default=NUM_CLASSES,
        metavar="N",
        help="of --protocol: their classes (default: ImageNet's %(default)s)",
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
        required=True,
        metavar="K",
        help=f"one of {', '.join(DEVICE_KINDS)}",
    )
    parser.add_argument(
        "--utilisation",
        type=float,
        default=UTILISATION,
        metavar="U",
        help="share of the devices' peak that the image encoder uses (default "
        f"{UTILISATION}: published trainings of EfficientNets on TPU v3 took 0.05 to "
        "0.11)",
    )
    parser.add_argument(
        "--text-utilisation",
        type=float,
        default=TEXT_UTILISATION,
        metavar="U",
        help="the same of the text encoder and the loss (default "
        f"{TEXT_UTILISATION}: BERT-large on TPU v3, arXiv 1904.00962)",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments):
    """Runs the command; returns its exit code."""
    kind = device_kind(arguments.device_kind)
    check_numbers(arguments)
    sizes_on = protocol_stages if arguments.protocol else experiment_stages
    stages_on, batch_size = sizes_on(arguments)
    devices = arguments.devices
    if devices is None:
        devices = fewest_devices(stages_on, batch_size, kind, arguments.device_kind)
    shares = arguments.utilisation, arguments.text_utilisation
    summaries = {
        stage: summarise(plan_step(sizes), sizes, kind, *shares)
        for stage, sizes in stages_on(devices).items()
    }
    if arguments.json:
        print(json.dumps(as_json(summaries, arguments.protocol), indent=1))
        return 0
    of = "images" if arguments.protocol else "pairs"
    title = f"{devices:,} × {arguments.device_kind}, {batch_size // devices:,} {of}"
    for stage, summary in summaries.items():
        prefix = f"{arguments.protocol}, {stage}: " if arguments.protocol else ""
        print_plan(summary, f"{prefix}{title} on each", is_recipe=bool(prefix))
    return 0


def check_numbers(arguments):
    """Raises unless the numbers of the command line are in their ranges."""
    utilisations = {
        "--utilisation": (arguments.utilisation, UTILISATION),
        "--text-utilisation": (arguments.text_utilisation, TEXT_UTILISATION),
    }
    for option, (given, usual) in utilisations.items():
        if not 0 < given <= 1:
            raise InputError(
                f"{option} must be > 0 and <= 1, received {given}; write for example "
                f"{usual}."
            )
    numbers = {
        "--num-images": (arguments.num_images, 1, NUM_IMAGES),
        "--num-classes": (arguments.num_classes, 2, NUM_CLASSES),
    }
    for option, (given, least, usual) in numbers.items():
        if given < least:
            raise InputError(
                f"{option} must be at least {least}, received {given}; leave it out "
                f"for ImageNet's {usual}."
            )
        if given != usual and not arguments.protocol:
            raise InputError(
                f"{option} is for --protocol, received {given}; leave it out."
            )


def as_json(summaries, protocol):
    """Returns an experiment's plan, or those of a protocol's stages together."""
    if not protocol:
        return summaries["train"]
    days = sum(summary["days"] for summary in summaries.values())
    return {"protocol": protocol, "stages": summaries, "days": days}


def fewest_devices(stages_on, batch_size, kind, name):
    """Returns the least number of devices whose memory holds every stage.

    Args:
        stages_on: callable of a number of devices → dict from stage to `RunSizes`.
        batch_size: int, of which it is a divisor.
        kind: `DeviceKind`.
        name: str, the kind's.

    Raises:
        InputError: if no number does.
    """
    if kind.memory is None:
        raise InputError(
            f"--devices must be given for {name}, whose memory isn't a device's own."
        )
    for devices in range(1, batch_size + 1):
        if batch_size % devices:
            continue
        try:
            plans = [plan_step(sizes) for sizes in stages_on(devices).values()]
        except InputError:  # Micro-batches that don't divide so few rows.
            continue
        if all(sum(plan.memory.values()) <= kind.memory for plan in plans):
            return devices
    raise InputError(
        f"no number of {name} holds it, of those that divide the batch of "
        f"{batch_size:,}; see what it takes with --devices {batch_size}."
    )


def experiment_stages(arguments):
    """Returns an experiment's only stage by devices, and its batch size."""
    config = load_config(
        arguments.experiment, arguments.config_file, arguments.params_override
    )
    return (
        lambda devices: {"train": run_sizes(config, devices)},
        config.task.train_data.global_batch_size,
    )


def protocol_stages(arguments):
    """Returns the stages of a protocol's recipe by devices, and its batch size.

    Of a sweep, those of the largest trial.
    """
    recipe = load_recipe(
        arguments.protocol, arguments.config_file, arguments.params_override
    )
    recipe = largest_trial(recipe)
    model = load_config(arguments.experiment or PROTOCOL_MODEL).task.model

    def stages_on(devices):
        return {
            name: stage_sizes(
                model,
                recipe,
                name,
                devices,
                num_images=arguments.num_images,
                num_classes=arguments.num_classes,
            )
            for name in ("head", "full")
            if not getattr(recipe, name).is_left_out
        }

    return stages_on, recipe.batch_size


def largest_trial(recipe):
    """Returns the recipe with the largest batch and length of its sweep."""
    sweep, last = recipe.sweep, recipe.last_stage
    if not sweep.trials:
        return recipe
    stage = getattr(recipe, last)
    if sweep.steps:
        stage = dataclasses.replace(stage, steps=max(sweep.steps), epochs=None)
    batch_size = max(sweep.batch_size, default=recipe.batch_size)
    return dataclasses.replace(recipe, batch_size=batch_size, **{last: stage})


def stage_sizes(model_config, recipe, name, devices, *, num_images, num_classes):
    """Returns the `RunSizes` of a stage of a recipe on so many devices.

    The classifier is an image encoder whose projection is the head. The last stage's
    model is judged too, at its own size.
    """
    stage, model = getattr(recipe, name), with_preset(model_config)
    tower = {
        **image_encoder_sizes(model),
        "projection_dim": num_classes,
        "padding": model.image_encoder.padding or "tf",
    }
    rematerialize = recipe.rematerialize
    if rematerialize is None:
        rematerialize = model.image_encoder.rematerialize
    cost = image_tower_cost(
        **tower,
        image_size=stage.train_size,
        rematerialize=rematerialize,
        locked=name == "head",
    )
    if name == recipe.last_stage:
        judged = image_tower_cost(**tower, image_size=stage.eval_size, locked=True)
        cost = dataclasses.replace(cost, peak=max(cost.peak, judged.peak))
    return RunSizes(
        image=cost,
        text=None,
        projection_dim=num_classes,
        global_batch_size=recipe.batch_size,
        devices=devices,
        train_steps=stage.length(recipe.batch_size, num_images),
        micro_batch_size=recipe.micro_batch_size,
        slots=int(recipe.momentum > 0),
        half_precision=recipe.runtime.mixed_precision_dtype != "float32",
    )


def run_sizes(config, devices):
    """Returns the `RunSizes` of an `ExperimentConfig` on so many devices."""
    model, data = with_preset(config.task.model), config.task.train_data
    image, text = model.image_encoder, model.text_encoder
    return RunSizes(
        image=image_tower_cost(
            **image_encoder_sizes(model),
            image_size=image.image_size,
            padding=image.padding or "tf",
            rematerialize=image.rematerialize,
            locked=image.locked,
        ),
        text=text_tower_cost(
            **text_encoder_sizes(model),
            vocabulary_size=text.vocabulary_size,
            sequence_length=text.sequence_length,
            max_sequence_length=text.max_sequence_length,
            dropout=text.dropout,
            pooling=text.pooling,
            rematerialize=text.rematerialize,
            locked=text.locked,
        ),
        projection_dim=model.projection_dim,
        global_batch_size=data.global_batch_size,
        devices=devices,
        train_steps=config.trainer.train_steps,
        micro_batch_size=data.micro_batch_size,
        virtual_batch_size=image.virtual_batch_size,
        slots=optimizer_slots(config.trainer.optimizer_config),
        half_precision=config.runtime.mixed_precision_dtype != "float32",
        tile_size=config.task.loss.tile_size or "auto",
        negatives_fraction=config.task.loss.negatives_fraction,
        share_equal_captions=config.task.loss.share_equal_captions,
    )


def optimizer_slots(optimizer_config):
    """Returns how many variables the optimizer has for each learned weight."""
    optimizer = optimizer_config.optimizer
    moments = (optimizer.sgd.momentum > 0) if optimizer.type == "sgd" else 2
    return moments + (optimizer_config.ema.average_decay is not None)


def summarise(plan, sizes, kind, utilisation, text_utilisation):
    """Returns the plan on a kind of device as a dict that is ready for JSON."""
    peak = kind.half_flops if sizes.half_precision else kind.float32_flops
    speeds = peak * utilisation, peak * text_utilisation, kind.bandwidth
    memory = sum(plan.memory.values())
    return {
        **dataclasses.asdict(plan),
        "device_memory": kind.memory,
        "fits": None if kind.memory is None else memory <= kind.memory,
        "peak_flops": peak,
        "utilisation": utilisation,
        "text_utilisation": text_utilisation,
        "seconds": plan.seconds(*speeds),
        "days": plan.days(*speeds),
    }


def print_plan(summary, title, is_recipe=False):
    """Prints the plan to stdout as a table, and what to do where it doesn't fit."""
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
    shares = summary["utilisation"], summary["text_utilisation"]
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
