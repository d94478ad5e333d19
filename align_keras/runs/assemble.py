"""From an experiment's configuration to its parts, in the order of a run.

Corpora, vocabulary, model, optimizer and loss, batches, schedule.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from align_keras import losses
from align_keras.config import (
    DataConfig,
    ExperimentConfig,
    LossConfig,
    ModelConfig,
    OptimizationConfig,
)
from align_keras.data.stored_pairs import read_captions
from align_keras.datasets import open_corpus, open_sources
from align_keras.images import crop_size_to_resize_size
from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.models.preset_table import with_preset
from align_keras.models.warm_start import (
    image_weights,
    project_class_names,
    text_weights,
)
from align_keras.optimizers import SGD, AdamW, Lamb, LinearWarmup, Muon
from align_keras.text import learn_vocabulary, load_vocabulary, save_vocabulary
from align_keras.utils.progress import progress_bar, say


def prepare_corpus(data: DataConfig, image_size: int) -> Any:
    """Builds a corpus, with images large enough for the encoder, or opens it."""
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

        return open_corpus(
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
    """Takes the run's vocabulary, its weights' or its file's, or learns it."""
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
    """Builds ALIGN as `task.model` describes it; without a vocabulary, of its size."""
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
    optimizers = {"lamb": Lamb, "adamw": AdamW, "muon": Muon, "sgd": SGD}
    return optimizers[kind](
        build_schedule(optimizer_config, train_steps),
        exclusions=arguments.pop("exclude_from_weight_decay"),
        learning_rate_multipliers=learning_rate_multipliers,
        use_ema=decay is not None,
        **({} if decay is None else {"ema_momentum": decay}),
        **arguments,
    )


def build_schedule(
    optimizer_config: OptimizationConfig, train_steps: int
) -> LinearWarmup:
    """Builds the learning-rate schedule; it ends at `train_steps`."""
    schedules = keras.optimizers.schedules
    warmup, rate = optimizer_config.warmup.get(), optimizer_config.learning_rate.get()
    warmup_steps = warmup.warmup_steps if warmup else 0
    steps = train_steps - warmup_steps
    after: keras.optimizers.schedules.LearningRateSchedule | float
    match optimizer_config.learning_rate.type:
        case "constant":
            after = rate.learning_rate
        case "stepwise":
            after = schedules.PiecewiseConstantDecay(
                list(rate.boundaries), list(rate.values)
            )
        case "linear":
            after = schedules.PolynomialDecay(
                rate.initial_learning_rate,
                rate.decay_steps or steps,
                rate.end_learning_rate,
            )
        case "cosine":
            after = schedules.CosineDecay(
                rate.initial_learning_rate, rate.decay_steps or steps, rate.alpha
            )
    start = warmup.warmup_learning_rate if warmup_steps else 0.0
    return LinearWarmup(after, warmup_steps, start)


def build_loss(loss_config: LossConfig) -> losses.PairLoss:
    """Builds the loss that `type` names: its section's fields are its arguments."""
    options = dataclasses.asdict(loss_config.get())
    if options.get("tile_size") == 0:
        options["tile_size"] = "auto"
    return getattr(losses, f"{loss_config.type.title()}Loss")(**options)


def compile_model(model: ALIGN, config: ExperimentConfig) -> None:
    """Compiles the model with the optimizer and the loss of the experiment."""
    towers = config.task.model
    # A tower's projection starts at random, so it learns at the full rate.
    multipliers = {
        f"^{name}/(?!projection/)": getattr(towers, name).learning_rate_multiplier
        for name in ("image_encoder", "text_encoder")
        if getattr(towers, name).learning_rate_multiplier != 1.0
    }
    model.compile(
        optimizer=build_optimizer(
            config.trainer.optimizer_config, config.trainer.train_steps, multipliers
        ),
        loss=build_loss(config.task.loss),
        micro_batch_size=config.task.train_data.micro_batch_size,
        loss_upper_bound=config.trainer.loss_upper_bound,
    )


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
