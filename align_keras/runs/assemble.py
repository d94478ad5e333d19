"""From an experiment's configuration to its parts, in the order of a run.

Corpora, vocabulary, model, optimizer and loss, batches, schedule.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from align_keras import losses
from align_keras.config import (
    DataConfig,
    ExperimentConfig,
    LearningRateConfig,
    LossConfig,
    ModelConfig,
    OptimizationConfig,
    TrainerConfig,
)
from align_keras.data import batch_ids, training_batches
from align_keras.data.stored_pairs import read_captions
from align_keras.datasets import build_corpus, open_sources
from align_keras.images import crop_size_to_resize_size
from align_keras.models import (
    ALIGN,
    ImageEncoder,
    TextEncoder,
)
from align_keras.models.preset_table import with_preset
from align_keras.models.warm_start import (
    image_weights,
    project_class_names,
    text_weights,
)
from align_keras.optimizers import SGD, AdamW, Lamb, LinearWarmup
from align_keras.text import learn_vocabulary, load_vocabulary, save_vocabulary
from align_keras.training import TrainingSchedule
from align_keras.utils.progress import progress_bar, say


def prepare_corpus(data: DataConfig, image_size: int) -> Any:
    """Builds the corpus of a data configuration, or opens the built one.

    Its stored images are large enough for an image encoder of this size; those of a
    `source` are as they are.
    """
    columns: dict[str, Any] = {
        "image_column": data.image_column,
        "caption_column": data.caption_column,
        "max_bad_fraction": data.max_bad_fraction,
        "shorter_side": crop_size_to_resize_size(image_size),
    }
    if data.source is not None:
        weights = [source.weight for source in data.source if source.weight is not None]
        paths = [source.path for source in data.source]
        return open_sources(paths, weights or None, **columns)
    with contextlib.ExitStack() as stack:
        bar = progress_bar(f"building {data.corpus}", "images", total=0)

        def progress(done, total):
            if not bar.total:
                stack.enter_context(bar)
            bar.total = total  # A mixture's grows as its next corpus begins.
            bar.advance(done - bar.done)

        return build_corpus(
            str(data.corpus),  # `check_corpora` refuses None.
            data_dir=data.tfds_data_dir,
            pairs=data.pairs,
            encoding=data.encoding,
            progress=progress,
            **columns,
        )


def prepare_vocabulary(
    config: ExperimentConfig, builder: Any, directory: str | os.PathLike
) -> list[str]:
    """Takes the vocabulary of the text weights or the configured file, or learns it.

    Once a run: it is kept in the run's folder.
    """
    path = pathlib.Path(directory) / "vocabulary.txt"
    if path.exists():
        return load_vocabulary(path)
    text = config.task.model.text_encoder
    if text.weights is not None:
        vocabulary = text_weights(text.weights).vocabulary
    elif text.vocabulary is not None:
        vocabulary = load_vocabulary(text.vocabulary)
    else:
        say("learning the vocabulary from the training captions")
        captions = read_captions(builder, config.task.train_data.tfds_split)
        vocabulary = learn_vocabulary(
            captions, text.vocabulary_size, normalization=text.normalization
        )
    save_vocabulary(vocabulary, path)
    return vocabulary


def build_model(
    model_config: ModelConfig, vocabulary: Sequence[str] | None = None
) -> ALIGN:
    """Builds ALIGN as `task.model` describes it.

    Without a vocabulary it has the size that the configuration names, and no tokenizer.
    """
    model_config = with_preset(model_config)
    temperature = model_config.initial_temperature
    if temperature is None:
        temperature = image_weights(model_config.image_encoder.weights).temperature
    model = ALIGN(
        build_image_encoder(model_config),
        build_text_encoder(model_config, vocabulary),
        vocabulary=vocabulary,
        normalization=model_config.text_encoder.normalization,
        initial_temperature=temperature,
        learn_temperature=model_config.learn_temperature,
    )
    if model_config.project_class_names:
        project_class_names(model)
    return model


def build_image_encoder(model_config: ModelConfig) -> ImageEncoder:
    """Builds the image encoder, with the weights that it names or random ones."""
    arguments = dataclasses.asdict(model_config.image_encoder)
    del arguments["learning_rate_multiplier"]
    weights = image_weights(arguments.pop("weights"))
    arguments["padding"] = arguments["padding"] or weights.padding
    if arguments["replicas_per_group"] == 0:
        arguments["replicas_per_group"] = "auto"
    encoder = ImageEncoder.from_variant(
        **arguments, projection_dim=model_config.projection_dim
    )
    weights.load(encoder)
    return encoder


def build_text_encoder(
    model_config: ModelConfig, vocabulary: Sequence[str] | None
) -> keras.Model:
    """Builds the text encoder, with the weights that it names or random ones."""
    arguments = dataclasses.asdict(model_config.text_encoder)
    for name in ("vocabulary", "normalization", "learning_rate_multiplier"):
        del arguments[name]
    weights = text_weights(arguments.pop("weights"))
    if vocabulary:
        arguments["vocabulary_size"] = len(vocabulary)
    projection = arguments.pop("projection")
    encoder = TextEncoder.from_variant(
        **arguments, projection_dim=model_config.projection_dim if projection else None
    )
    weights.load(encoder)
    return encoder


def build_optimizer(
    optimizer_config: OptimizationConfig,
    train_steps: int,
    learning_rate_multipliers: Mapping[str, float] | None = None,
) -> keras.optimizers.Optimizer:
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


def learning_rate_multipliers(model_config: ModelConfig) -> dict[str, float]:
    """Returns the factors of the towers' learning rates, by variable path.

    A tower's projection starts at random, so it learns at the full rate.
    """
    multipliers = {
        "image_encoder": model_config.image_encoder.learning_rate_multiplier,
        "text_encoder": model_config.text_encoder.learning_rate_multiplier,
    }
    return {
        f"^{name}/(?!projection/)": multiplier
        for name, multiplier in multipliers.items()
        if multiplier != 1.0
    }


def build_schedule(
    optimizer_config: OptimizationConfig, train_steps: int
) -> LinearWarmup:
    """Builds the learning-rate schedule; it ends at `train_steps`."""
    chosen, warmup = optimizer_config.learning_rate, optimizer_config.warmup
    warmup_steps = warmup.linear.warmup_steps if warmup.type == "linear" else 0
    after = build_decay(chosen, train_steps - warmup_steps)
    start = warmup.linear.warmup_learning_rate if warmup_steps else 0.0
    return LinearWarmup(after, warmup_steps, start)


def build_decay(
    learning_rate_config: LearningRateConfig, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule | float:
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


def build_loss(loss_config: LossConfig) -> losses.PairLoss:
    """Builds the loss that `type` names: its section's fields are its arguments."""
    options = dataclasses.asdict(loss_config.get())
    if options.get("tile_size") == 0:
        options["tile_size"] = "auto"
    return getattr(losses, f"{loss_config.type.title()}Loss")(**options)


def compile_model(model: ALIGN, config: ExperimentConfig) -> None:
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


def batch_maker(config: ExperimentConfig, builder: Any, model: ALIGN) -> Callable:
    """Returns the function of the start step that makes the training batches."""
    data = config.task.train_data

    def make_batches(start_step, **pipeline):
        return training_batches(
            builder,
            data.tfds_split,
            model.tokenizer,
            image_size=model.image_size,
            start_step=start_step,
            crop=data.random_crop,
            flip=data.random_flip,
            zoom=data.random_zoom,
            shift=data.random_shift,
            recolor=data.random_recolor,
            data_service=data.data_service,
            **order_arguments(config),
            **pipeline,
        )

    return make_batches


def batch_namer(config: ExperimentConfig, builder: Any) -> Callable:
    """Returns the function of a step that names the pairs of its batch.

    With a data service, whose workers decide on the order, it returns None.
    """
    data = config.task.train_data

    def ids(step, **pipeline):
        if data.data_service is not None:
            return None
        arguments = order_arguments(config) | pipeline
        return batch_ids(builder, data.tfds_split, step=step, **arguments)

    return ids


def order_arguments(config: ExperimentConfig) -> dict[str, Any]:
    """What decides which pairs are in which batch."""
    data = config.task.train_data
    return {
        "batch_size": data.global_batch_size,
        "seed": config.trainer.seed if data.seed is None else data.seed,
        "shuffle_buffer_size": data.shuffle_buffer_size,
        "cache": data.cache,
        "pair_weighted": data.pair_weighted,
    }


def training_schedule(trainer: TrainerConfig) -> TrainingSchedule:
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
