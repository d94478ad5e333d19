"""Estimates of training runs from an experiment or a fine-tuning recipe."""

import dataclasses
from collections.abc import Callable
from typing import Any

from align_keras.config import ExperimentConfig, FineTuningConfig
from align_keras.config.loss_config import LossConfig
from align_keras.config.model_config import ModelConfig
from align_keras.config.optimizer_config import OptimizationConfig
from align_keras.planning.device_kinds import (
    TEXT_UTILIZATION,
    UTILIZATION,
    DeviceKind,
    find_device_kind,
)
from align_keras.planning.step_plan import RunSizes, StepPlan, plan_step
from align_keras.presets.sizes import with_preset
from align_keras.presets.tower_costs import TowerCost, image_tower_cost, text_tower_cost
from align_keras.presets.variants import (
    DEFAULT_BLOCKS,
    DEFAULT_RANK,
    image_encoder_arguments,
    text_encoder_arguments,
)
from align_keras.utils.arguments import check_number, parameters_of
from align_keras.utils.errors import InputError

# Numbers of training images and classes of ImageNet, for which a recipe is planned.
_NUM_IMAGES = 1_281_167
_NUM_CLASSES = 1000


def plan(
    config: ExperimentConfig,
    device_kind: str,
    devices: int | None = None,
    *,
    utilization: float = UTILIZATION,
    text_utilization: float = TEXT_UTILIZATION,
) -> dict:
    """Estimates the operations, memory, traffic and time of training an experiment.

    Args:
        config: `ExperimentConfig`.
        device_kind: a key of `DEVICE_KINDS`.
        devices: number of replicas, or None for the smallest number whose memory
            is sufficient.
        utilization: fraction in (0, 1] of the peak performance that the image
            encoder reaches.
        text_utilization: fraction in (0, 1] of the peak performance that the
            text encoder and the loss reach.

    Returns:
        dict that can be stored as JSON. Its keys are the attributes of `StepPlan` and

        - `batch_size`: number of pairs in a step of all devices.
        - `device_memory`: bytes of a device, or None.
        - `fits`: True if the memory of a device is sufficient, or None.
        - `peak_flops`: peak operations per second of a device.
        - `utilization` and `text_utilization`: the arguments.
        - `seconds`: seconds of each part of a step.
        - `days`: days of all steps.

    Raises:
        InputError: if a number is out of range, the device is unknown, the batch cannot
            be divided among the devices, or no number of devices is sufficient.

    Example:

    >>> from align_keras.config import load_config
    >>> planned = plan(load_config("align_b7_base"), "tpu_v3", devices=512)
    >>> planned["fits"], round(planned["memory"]["optimizer"] / 2**30, 1)
    (False, 1.7)
    """

    def sizes_of_stages(devices: int) -> dict[str, RunSizes]:
        return {"train": run_sizes(config, devices)}

    plans = _plan_stages(
        sizes_of_stages,
        config.task.train_data.global_batch_size,
        device_kind,
        devices,
        utilization,
        text_utilization,
    )
    return plans["train"]


def plan_recipe(
    recipe: FineTuningConfig,
    model_config: ModelConfig,
    device_kind: str,
    devices: int | None = None,
    *,
    utilization: float = UTILIZATION,
    text_utilization: float = TEXT_UTILIZATION,
) -> dict:
    """Estimates fine-tuning of an image encoder as a classifier.

    The numbers of training images and of classes are those of ImageNet. If the recipe
    has a sweep, the estimate is for its largest trial.

    Args:
        recipe: `FineTuningConfig`.
        model_config: `ModelConfig` with the image encoder.
        device_kind: a key of `DEVICE_KINDS`.
        devices: as in `plan`.
        utilization: as in `plan`.
        text_utilization: as in `plan`.

    Returns:
        dict with the keys `stages`, a dict from `"head"` and `"full"` to dicts as
        `plan` returns them, and `days`, the sum of both stages.

    Raises:
        InputError: as in `plan`.

    References:
        Jia et al. 2021, section 5.3.

    Example:

    >>> from align_keras.config import load_config, load_recipe
    >>> model_config = load_config("align_b7_base").task.model
    >>> planned = plan_recipe(load_recipe("imagenet_full"), model_config, "tpu_v3")
    >>> sorted(planned["stages"])
    ['full', 'head']
    """
    recipe = largest_trial(recipe)

    def sizes_of_stages(devices: int) -> dict[str, RunSizes]:
        return {
            name: stage_sizes(model_config, recipe, name, devices)
            for name in ("head", "full")
            if not getattr(recipe, name).is_skipped
        }

    plans = _plan_stages(
        sizes_of_stages,
        recipe.batch_size,
        device_kind,
        devices,
        utilization,
        text_utilization,
    )
    days = sum(stage_plan["days"] for stage_plan in plans.values())
    return {"stages": plans, "days": days}


def _plan_stages(
    sizes_of_stages: Callable[[int], dict[str, RunSizes]],
    batch_size: int,
    device_kind: str,
    devices: int | None,
    utilization: float,
    text_utilization: float,
) -> dict[str, dict]:
    """Returns the plan of each stage as a dict for JSON."""
    # A percentage such as 8 would make the plan a hundred times too short.
    check_number("utilization", utilization, 1e-6, 1)
    check_number("text_utilization", text_utilization, 1e-6, 1)
    kind = find_device_kind(device_kind)
    if devices is None:
        devices = fewest_devices(sizes_of_stages, batch_size, kind, device_kind)
    return {
        stage: summarize(plan_step(sizes), sizes, kind, utilization, text_utilization)
        for stage, sizes in sizes_of_stages(devices).items()
    }


def fewest_devices(
    sizes_of_stages: Callable[[int], dict[str, RunSizes]],
    batch_size: int,
    kind: DeviceKind,
    name: str,
) -> int:
    """Returns the smallest number of devices whose memory is sufficient.

    Args:
        sizes_of_stages: function from the number of devices to `RunSizes` by stage.
        batch_size: global batch size. The result divides it.
        kind: `DeviceKind`.
        name: name of the kind for messages.
    """
    if kind.memory is None:
        raise InputError(
            f"`devices` must be set for device_kind={name!r}, whose memory is shared "
            "with other programs. Received: devices=None. Set the number of devices."
        )
    for devices in range(1, batch_size + 1):
        if batch_size % devices:
            continue
        try:
            plans = [plan_step(sizes) for sizes in sizes_of_stages(devices).values()]
        except InputError:
            # The micro-batch size does not divide the number of pairs per device.
            continue
        if all(sum(plan.memory.values()) <= kind.memory for plan in plans):
            return devices
    raise InputError(
        f"The run needs more memory than {name} has with any number of devices that "
        f"divides the batch size {batch_size:,}. Set `devices` to {batch_size} to see "
        "the required memory."
    )


def largest_trial(recipe: FineTuningConfig) -> FineTuningConfig:
    """Returns the recipe with the largest batch size and number of steps in its sweep.

    A recipe without a sweep is returned unchanged.
    """
    sweep = recipe.sweep
    last_stage = recipe.last_stage
    if not sweep.trials:
        return recipe
    stage = getattr(recipe, last_stage)
    if sweep.steps:
        stage = stage.model_copy(update={"steps": max(sweep.steps), "epochs": None})
    batch_size = max(sweep.batch_size, default=recipe.batch_size)
    return recipe.model_copy(update={"batch_size": batch_size, last_stage: stage})


def stage_sizes(
    model_config: ModelConfig,
    recipe: FineTuningConfig,
    name: str,
    devices: int,
    num_classes: int = _NUM_CLASSES,
) -> RunSizes:
    """Returns the `RunSizes` of the stage `"head"` or `"full"` of a recipe.

    The projection of the image encoder is the classification head.
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
        train_steps=stage.length(recipe.batch_size, _NUM_IMAGES),
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
            training=image.training_mode,
            blocks=image.blocks or DEFAULT_BLOCKS,
            rank=image.rank or DEFAULT_RANK,
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
        distills_similarity=config.task.distillation.teacher is not None
        and config.task.distillation.similarity_weight > 0,
    )


def _loss_sizes(loss_config: LossConfig) -> dict[str, Any]:
    """Returns the arguments of `RunSizes` for a loss."""
    if loss_config.type == "sigmoid":
        return {
            "loss": "sigmoid",
            "tile_size": loss_config.sigmoid.tile_size or "auto",
        }
    loss = loss_config.contrastive
    return {
        "tile_size": loss.tile_size or "auto",
        "negatives_fraction": loss.negatives_fraction,
        "shares_positives": loss.share_equal_captions or loss.share_equal_images,
    }


def _image_sizes(model_config: ModelConfig) -> dict[str, Any]:
    """Returns the arguments of `image_tower_cost` that determine the architecture."""
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
    """Returns the cost of a text encoder with the sizes of its configuration."""
    text = model_config.text_encoder
    sizes = text_encoder_arguments(text.variant)
    names = parameters_of(text_tower_cost)
    overrides = {name: getattr(text, name, None) for name in names}
    sizes |= {name: size for name, size in overrides.items() if size is not None}
    projection_dim = model_config.projection_dim if text.projection else None
    return text_tower_cost(**sizes, projection_dim=projection_dim)


def optimizer_slots(optimizer_config: OptimizationConfig) -> int:
    """Returns the number of optimizer variables per trainable weight."""
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
    """Returns a plan with its times on a kind of device as a dict for JSON."""
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
