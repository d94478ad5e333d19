"""Plans of training runs by a configuration or a recipe."""

import dataclasses
from collections.abc import Callable
from typing import Any

from align_keras.config import (
    ExperimentConfig,
    FineTuningConfig,
    LossConfig,
    ModelConfig,
    OptimizationConfig,
)
from align_keras.models.preset_table import with_preset
from align_keras.models.tower_costs import TowerCost, image_tower_cost, text_tower_cost
from align_keras.models.variants import image_encoder_arguments, text_encoder_arguments
from align_keras.planning.device_kinds import DeviceKind, find_device_kind
from align_keras.planning.step_plan import RunSizes, StepPlan, plan_step
from align_keras.utils.arguments import check_number, parameters_of
from align_keras.utils.errors import InputError

# Fraction of the peak. Depthwise convolutions and normalizations of EfficientNet leave
# most of a matrix unit idle. Wongpanich et al. 2020 trained B5 (456 pixels, 350 epochs)
# in 64 minutes on 1,024 TPU v3 cores, which is 11% of their peak. The model card of
# coyo-align states 8 days for B7 + BERT-base (300,000 steps of 65,536) on 512 cores,
# which is 5% for the image encoder with the utilization of the text encoder below.
UTILIZATION = 0.08
# You et al. 2020 (arXiv 1904.00962) trained BERT-large in 76 minutes on 2,048 TPU v3
# cores: 7,037 steps of 65,536 texts of 128 tokens and 1,562 of 32,768 of 512, about
# 1.6e20 operations, are 28% of their peak.
TEXT_UTILIZATION = 0.28
# Training images and classes of ImageNet, which two of the protocols train on.
NUM_IMAGES = 1_281_167
NUM_CLASSES = 1000


def plan(
    config: ExperimentConfig,
    device_kind: str,
    devices: int | None = None,
    *,
    utilization: float = UTILIZATION,
    text_utilization: float = TEXT_UTILIZATION,
) -> dict:
    """Computes operations, memory, traffic and time of training an experiment.

    Args:
        config: `ExperimentConfig`.
        device_kind: str, a key of `DEVICE_KINDS`.
        devices: int, replicas, or None for the fewest that hold the run.
        utilization: float in (0, 1], fraction of the devices' peak that the image
            encoder uses.
        text_utilization: float in (0, 1], fraction that the text encoder and the loss
            use.

    Returns:
        dict for JSON: `parameters`, `flops` and `encoder_flops` of a step over
        all devices, `memory` and `traffic` of a device, `fits`, `seconds` of a step,
        and `days` of all.

    Raises:
        InputError: for a number out of range, an unknown device, a batch that can't be
            divided, or if the run doesn't fit on any number of devices.

    Example:

    >>> from align_keras.config import load_config
    >>> planned = plan(load_config("align_b7_base"), "tpu_v3", devices=512)
    >>> planned["fits"], round(planned["memory"]["optimizer"] / 2**30, 1)
    (False, 1.7)
    """
    shares = _checked_shares(utilization, text_utilization)

    def stages_on(devices: int) -> dict[str, RunSizes]:
        return {"train": run_sizes(config, devices)}

    batch_size = config.task.train_data.global_batch_size
    return _planned(stages_on, batch_size, device_kind, devices, shares)["train"]


def plan_recipe(
    recipe: FineTuningConfig,
    model_config: ModelConfig,
    device_kind: str,
    devices: int | None = None,
    *,
    num_images: int = NUM_IMAGES,
    num_classes: int = NUM_CLASSES,
    utilization: float = UTILIZATION,
    text_utilization: float = TEXT_UTILIZATION,
) -> dict:
    """Computes what training of a protocol requires, for a sweep its largest trial.

    The image encoder of `model_config` learns to classify `num_images` ≥ 1 images of
    `num_classes` ≥ 2 classes. Other arguments and errors are those of `plan`.

    Returns:
        dict: `stages`, from the name of a stage (`"head"`, `"full"`) to its plan, and
        `days` of all.

    References:
        Jia et al. 2021, section 5.3.
    """
    shares = _checked_shares(utilization, text_utilization)
    check_number("num_images", num_images, 1, 1e12, whole=True)
    check_number("num_classes", num_classes, 2, 1e12, whole=True)
    recipe = largest_trial(recipe)

    def stages_on(devices: int) -> dict[str, RunSizes]:
        return {
            name: stage_sizes(
                model_config,
                recipe,
                name,
                devices,
                num_images=num_images,
                num_classes=num_classes,
            )
            for name in ("head", "full")
            if not getattr(recipe, name).is_skipped
        }

    stages = _planned(stages_on, recipe.batch_size, device_kind, devices, shares)
    days = sum(stage["days"] for stage in stages.values())
    return {"stages": stages, "days": days}


def _checked_shares(utilization: float, text_utilization: float) -> tuple[float, float]:
    """Returns both utilizations, or raises if one is out of range."""
    check_number("utilization", utilization, 1e-6, 1)
    check_number("text_utilization", text_utilization, 1e-6, 1)
    return utilization, text_utilization


def _planned(
    stages_on: Callable,
    batch_size: int,
    device_kind: str,
    devices: int | None,
    shares: tuple[float, float],
) -> dict[str, dict]:
    """Returns the summary of each stage. `stages_on` returns sizes by devices."""
    kind = find_device_kind(device_kind)
    if devices is None:
        devices = fewest_devices(stages_on, batch_size, kind, device_kind)
    return {
        stage: summarize(plan_step(sizes), sizes, kind, *shares)
        for stage, sizes in stages_on(devices).items()
    }


def fewest_devices(
    stages_on: Callable, batch_size: int, kind: DeviceKind, name: str
) -> int:
    """Returns the fewest devices on which every stage fits, a divisor of the batch."""
    if kind.memory is None:
        raise InputError(
            f"devices must be given for {name}, whose memory others share; say how "
            "many."
        )
    for devices in range(1, batch_size + 1):
        if batch_size % devices:
            continue
        try:
            plans = [plan_step(sizes) for sizes in stages_on(devices).values()]
        # The micro-batch size doesn't divide the rows of a device.
        except InputError:
            continue
        if all(sum(plan.memory.values()) <= kind.memory for plan in plans):
            return devices
    raise InputError(
        f"no number of {name} holds it, of those that divide the batch of "
        f"{batch_size:,}; see what it takes with `devices` {batch_size}."
    )


def largest_trial(recipe: FineTuningConfig) -> FineTuningConfig:
    """Returns the recipe with the largest batch and length of its sweep."""
    sweep = recipe.sweep
    last = recipe.last_stage
    if not sweep.trials:
        return recipe
    stage = getattr(recipe, last)
    if sweep.steps:
        stage = dataclasses.replace(stage, steps=max(sweep.steps), epochs=None)
    batch_size = max(sweep.batch_size, default=recipe.batch_size)
    return dataclasses.replace(recipe, batch_size=batch_size, **{last: stage})


def stage_sizes(
    model_config: ModelConfig,
    recipe: FineTuningConfig,
    name: str,
    devices: int,
    *,
    num_images: int,
    num_classes: int,
) -> RunSizes:
    """Returns the `RunSizes` of a stage of a recipe.

    The projection of its image encoder is the head.
    """
    stage = getattr(recipe, name)
    model = with_preset(model_config)
    tower = {
        **_image_sizes(model),
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
        evaluation = image_tower_cost(**tower, image_size=stage.eval_size, locked=True)
        cost = dataclasses.replace(cost, peak=max(cost.peak, evaluation.peak))
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


def run_sizes(config: ExperimentConfig, devices: int) -> RunSizes:
    """Returns the `RunSizes` of an `ExperimentConfig` on a number of devices."""
    model = with_preset(config.task.model)
    data = config.task.train_data
    image = model.image_encoder
    return RunSizes(
        image=image_tower_cost(
            **_image_sizes(model),
            image_size=image.image_size,
            padding=image.padding or "tf",
            rematerialize=image.rematerialize,
            locked=image.locked,
        ),
        text=_text_cost(model),
        projection_dim=model.projection_dim,
        global_batch_size=data.global_batch_size,
        devices=devices,
        train_steps=config.trainer.train_steps,
        micro_batch_size=data.micro_batch_size,
        virtual_batch_size=image.virtual_batch_size,
        slots=optimizer_slots(config.trainer.optimizer_config),
        half_precision=config.runtime.mixed_precision_dtype != "float32",
        **_loss_sizes(config.task.loss),
    )


def _loss_sizes(loss_config: LossConfig) -> dict[str, Any]:
    """Returns the arguments of `RunSizes` for a loss."""
    if loss_config.type == "sigmoid":
        return {"loss": "sigmoid", "tile_size": None}
    loss = loss_config.contrastive
    return {
        "tile_size": loss.tile_size or "auto",
        "negatives_fraction": loss.negatives_fraction,
        "share_equal_captions": loss.share_equal_captions,
    }


def _image_sizes(model_config: ModelConfig) -> dict[str, Any]:
    """Returns `ImageEncoder`'s coefficients, projection and classes."""
    image = model_config.image_encoder
    return image_encoder_arguments(
        image.variant,
        model_config.projection_dim,
        width_coefficient=image.width_coefficient,
        depth_coefficient=image.depth_coefficient,
        num_classes=image.num_classes,
        num_stages=image.num_stages,
    )


def _text_cost(model_config: ModelConfig) -> TowerCost:
    """Returns the cost of a `TextEncoder` by its variant and overrides of its sizes."""
    text = model_config.text_encoder
    sizes = text_encoder_arguments(text.variant)
    names = parameters_of(text_tower_cost)
    overrides = {name: getattr(text, name, None) for name in names}
    sizes |= {name: size for name, size in overrides.items() if size is not None}
    projection_dim = model_config.projection_dim if text.projection else None
    return text_tower_cost(**sizes, projection_dim=projection_dim)


def optimizer_slots(optimizer_config: OptimizationConfig) -> int:
    """Returns the number of optimizer variables for each learned weight."""
    optimizer = optimizer_config.optimizer
    moments = (optimizer.sgd.momentum > 0) if optimizer.type == "sgd" else 2
    return moments + (optimizer_config.ema.average_decay is not None)


def summarize(
    plan: StepPlan,
    sizes: RunSizes,
    kind: DeviceKind,
    utilization: float,
    text_utilization: float,
) -> dict:
    """Returns the plan on a kind of device as a dict for JSON."""
    peak = kind.half_flops if sizes.half_precision else kind.float32_flops
    image_rate = peak * utilization
    text_rate = peak * text_utilization
    memory = sum(plan.memory.values())
    return {
        **dataclasses.asdict(plan),
        "batch_size": sizes.global_batch_size,
        "device_memory": kind.memory,
        "fits": None if kind.memory is None else memory <= kind.memory,
        "peak_flops": peak,
        "utilization": utilization,
        "text_utilization": text_utilization,
        "seconds": plan.seconds(image_rate, text_rate, kind.bandwidth),
        "days": plan.days(image_rate, text_rate, kind.bandwidth),
    }
