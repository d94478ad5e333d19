"""From an experiment's configuration to optimizer, loss and schedule."""

import dataclasses

import keras

from align_keras.losses import ContrastiveLoss
from align_keras.optimizers import SGD, AdamW, Lamb, LinearWarmup
from align_keras.training import TrainingSchedule


def build_optimizer(optimizer_config, train_steps, learning_rate_multipliers=None):
    """Builds the optimizer with its schedule and warm-up."""
    kind = optimizer_config.optimizer.type
    arguments = dataclasses.asdict(optimizer_config.optimizer.get())
    decay = optimizer_config.ema.average_decay
    return {"lamb": Lamb, "adamw": AdamW, "sgd": SGD}[kind](
        build_schedule(optimizer_config, train_steps),
        exclusions=arguments.pop("exclude_from_weight_decay"),
        learning_rate_multipliers=learning_rate_multipliers,
        use_ema=decay is not None,
        **({} if decay is None else {"ema_momentum": decay}),
        **arguments,
    )


def learning_rate_multipliers(model_config):
    """Returns the factors of the towers' learning rates, by variable path.

    A tower's projection starts at random, so it learns at the full rate.
    """
    towers = {
        "image_encoder": model_config.image_encoder,
        "text_encoder": model_config.text_encoder,
    }
    return {
        f"^{name}/(?!projection/)": tower.learning_rate_multiplier
        for name, tower in towers.items()
        if tower.learning_rate_multiplier != 1.0
    }


def build_schedule(optimizer_config, train_steps):
    """Builds the learning-rate schedule; it ends at `train_steps`."""
    chosen, warmup = optimizer_config.learning_rate, optimizer_config.warmup
    warmup_steps = warmup.linear.warmup_steps if warmup.type == "linear" else 0
    after = build_decay(chosen, train_steps - warmup_steps)
    start = warmup.linear.warmup_learning_rate if warmup_steps else 0.0
    return LinearWarmup(after, warmup_steps, start)


def build_decay(learning_rate_config, steps):
    """Builds what comes after the warm-up, a schedule or a number."""
    schedules = keras.optimizers.schedules
    rate = learning_rate_config.get()
    kind = learning_rate_config.type
    if kind == "constant":
        return rate.learning_rate
    if kind == "stepwise":
        return schedules.PiecewiseConstantDecay(
            list(rate.boundaries), list(rate.values)
        )
    steps = rate.decay_steps or steps
    if kind == "linear":
        return schedules.PolynomialDecay(
            rate.initial_learning_rate, steps, rate.end_learning_rate
        )
    return schedules.CosineDecay(rate.initial_learning_rate, steps, rate.alpha)


def build_loss(loss_config):
    """Builds the loss: the configuration's fields are its arguments."""
    options = dataclasses.asdict(loss_config)
    return ContrastiveLoss(**{**options, "tile_size": options["tile_size"] or "auto"})


def compile_model(model, config):
    """Compiles the model with the optimizer and the loss of the experiment."""
    model.compile(
        optimizer=build_optimizer(
            config.trainer.optimizer_config,
            config.trainer.train_steps,
            learning_rate_multipliers(config.task.model),
        ),
        loss=build_loss(config.task.loss),
        micro_batch_size=config.task.train_data.micro_batch_size,
        loss_upper_bound=config.trainer.loss_upper_bound,
    )


def training_schedule(trainer):
    """The trainer's intervals as a `TrainingSchedule`."""
    return TrainingSchedule(
        train_steps=trainer.train_steps,
        steps_per_loop=trainer.steps_per_loop,
        checkpoint_interval=trainer.checkpoint_interval,
        validation_interval=trainer.validation_interval,
        max_to_keep=trainer.max_to_keep,
        best_metric=trainer.best_checkpoint_eval_metric,
        best_is_higher=trainer.best_checkpoint_metric_comp == "higher",
    )
