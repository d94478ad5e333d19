"""Optimizer and schedule that the recipe "auto" chooses for a run of a model."""

import dataclasses
import math

import keras

from align_keras.layers.batch_normalization import FusedBatchNormalization
from align_keras.optimizers.recipes import (
    INITIAL_TEMPERATURE,
    ResolvedRecipe,
    resolve_recipe,
)
from align_keras.optimizers.replica_gradients import inner_optimizer


def choose_optimizer(
    model: keras.Model,
    steps: int | None,
    batch_size: int | None,
    initial_step: int = 0,
) -> ResolvedRecipe | None:
    """Chooses the optimizer and the schedule of a run with the recipe "auto".

    An optimizer that the recipe chose for an earlier run keeps its moments, and its
    schedule starts again. If the first run after `compile` starts from trained weights,
    this run and all later runs use a tenth of the learning rate.

    Args:
        model: compiled `ALIGN`.
        steps: updates from step 0 of the run to its end, or None if the length of the
            run is unknown.
        batch_size: pairs per step over all replicas, or None if unknown.
        initial_step: ≥ 0, updates of this run that were made before.

    Returns:
        `ResolvedRecipe`, or None if `compile` received an optimizer or another recipe.
    """
    if model.recipe != "auto":
        return None
    is_new = model.optimizer is None
    if is_new:
        model.is_fine_tuning = _is_trained(model)
    resolved = resolve_recipe(steps, batch_size, model.is_fine_tuning)
    if is_new:
        if not model.is_fine_tuning and _has_initial_temperature_of_paper(model):
            log_temperature = math.log(INITIAL_TEMPERATURE)
            model.temperature_layer.log_temperature.assign(log_temperature)
            resolved = dataclasses.replace(
                resolved, initial_temperature=INITIAL_TEMPERATURE
            )
        with model.distribute_strategy.scope():
            model.set_optimizer(resolved.build_optimizer(-initial_step))
    else:
        optimizer = inner_optimizer(model.optimizer)
        first_step = int(optimizer.iterations.numpy()) - initial_step
        # The compiled step contains the old schedule, so it is traced again.
        optimizer.learning_rate = resolved.schedule(first_step)
        model.train_function = None
    model.resolved_recipe = resolved
    limit_batch_norm_momentum(model, resolved.max_batch_norm_momentum)
    return resolved


def limit_batch_norm_momentum(model: keras.Model, limit: float) -> None:
    """Sets the momentum of the moving statistics, at most `limit`."""
    for layer in _batch_normalizations(model):
        layer.momentum = min(model.image_encoder.batch_norm_momentum, limit)


def _batch_normalizations(model: keras.Model) -> list[FusedBatchNormalization]:
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, FusedBatchNormalization)
    ]


def _is_trained(model: keras.Model) -> bool:
    """Returns True if training has updated a moving mean of the image encoder."""
    layers = _batch_normalizations(model)
    return any(bool(layer.moving_mean.numpy().any()) for layer in layers)


def _has_initial_temperature_of_paper(model: keras.Model) -> bool:
    """Returns True if the temperature is learned and starts from 1.0."""
    layer = model.temperature_layer
    return layer.trainable and float(layer.temperature) == 1.0
