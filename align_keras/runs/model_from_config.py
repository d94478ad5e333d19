"""Vocabulary, model, optimizer and loss of a configuration."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from align_keras import losses
from align_keras.config import ExperimentConfig
from align_keras.config.loss_config import DistillationConfig, LossConfig
from align_keras.config.model_config import (
    ImageEncoderConfig,
    ModelConfig,
    TextEncoderConfig,
)
from align_keras.config.optimizer_config import OptimizationConfig
from align_keras.data.stored_pairs import read_captions
from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.models.warm_start import (
    image_weights,
    project_class_names,
    text_weights,
)
from align_keras.optimizers import SGD, AdamW, Lamb, LinearWarmup, Muon
from align_keras.presets.layout import VOCABULARY_ASSET
from align_keras.presets.sizes import with_preset
from align_keras.presets.variants import DEFAULT_BLOCKS, DEFAULT_RANK
from align_keras.text import learn_vocabulary, load_vocabulary, save_vocabulary
from align_keras.utils.progress import say

# Options of `choose_trained_weights`.
_TRAINING_OPTIONS = ("training", "blocks", "rank")
_OPTIMIZERS: dict[str, Any] = {"lamb": Lamb, "adamw": AdamW, "muon": Muon, "sgd": SGD}


def prepare_vocabulary(
    config: ExperimentConfig, builder: Any, directory: str | os.PathLike
) -> list[str]:
    """Loads the vocabulary of a run, or learns it from the training captions.

    The first of these vocabularies that exists is used: the vocabulary in the folder,
    the vocabulary of the text encoder's weights, and the file in the configuration. The
    vocabulary is then saved in the folder.
    """
    path = pathlib.Path(directory, VOCABULARY_ASSET)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    save_vocabulary(vocabulary, path)
    return vocabulary


def build_model(
    model_config: ModelConfig, vocabulary: Sequence[str] | None = None
) -> ALIGN:
    """Builds the model that `task.model` describes.

    Args:
        model_config: `ModelConfig`.
        vocabulary: sequence of str, or None to build a model without a tokenizer and
            with the configured vocabulary size.
    """
    model_config = with_preset(model_config)
    temperature = model_config.initial_temperature
    if temperature is None:
        temperature = image_weights(model_config.image_encoder.weights).temperature
    model = ALIGN.from_encoders(
        build_image_encoder(model_config),
        build_text_encoder(model_config, vocabulary),
        vocabulary=vocabulary,
        normalization=model_config.text_encoder.normalization,
        initial_temperature=temperature,
        learn_temperature=model_config.learn_temperature,
    )
    if model_config.project_class_names:
        project_class_names(model)
    # Factors of LoRA belong to the initial weights, which are complete here.
    choose_trained_weights(model.image_encoder, model_config.image_encoder)
    choose_trained_weights(model.text_encoder, model_config.text_encoder)
    return model


def choose_trained_weights(
    encoder: ImageEncoder | TextEncoder,
    encoder_config: ImageEncoderConfig | TextEncoderConfig,
) -> None:
    """Freezes the weights of an encoder that its configuration doesn't train."""
    # The constructor of the encoder implements `locked`.
    if encoder_config.training is None:
        return
    encoder.set_training(
        encoder_config.training,
        blocks=encoder_config.blocks or DEFAULT_BLOCKS,
        rank=encoder_config.rank or DEFAULT_RANK,
    )


def build_image_encoder(model_config: ModelConfig) -> ImageEncoder:
    """Builds the image encoder with the configured weights or random weights."""
    arguments = model_config.image_encoder.model_dump()
    for name in ("learning_rate_multiplier", *_TRAINING_OPTIONS):
        del arguments[name]
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
    """Builds the text encoder with the configured weights or random weights."""
    arguments = model_config.text_encoder.model_dump()
    unused = ("vocabulary", "normalization", "learning_rate_multiplier")
    for name in (*unused, *_TRAINING_OPTIONS):
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
    arguments = optimizer_config.optimizer.get().model_dump()
    exclusions = arguments.pop("exclude_from_weight_decay")
    average_decay = optimizer_config.ema.average_decay
    if average_decay is not None:
        arguments["use_ema"] = True
        arguments["ema_momentum"] = average_decay
    return _OPTIMIZERS[optimizer_config.optimizer.type](
        build_schedule(optimizer_config, train_steps),
        exclusions=exclusions,
        learning_rate_multipliers=learning_rate_multipliers,
        **arguments,
    )


def build_schedule(
    optimizer_config: OptimizationConfig, train_steps: int
) -> LinearWarmup:
    """Builds the learning-rate schedule, which ends at `train_steps`."""
    schedules = keras.optimizers.schedules
    warmup = optimizer_config.warmup.get()
    rate = optimizer_config.learning_rate.get()
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


def build_loss(loss_config: LossConfig, projection_dim: int) -> losses.PairLoss:
    """Builds the loss of the configured type with the options of its section.

    Args:
        loss_config: `LossConfig`.
        projection_dim: width of the embeddings, the largest one of a loss at several
            widths.
    """
    options = loss_config.get().model_dump()
    if options.get("tile_size") == 0:
        options["tile_size"] = "auto"
    loss = getattr(losses, f"{loss_config.type.title()}Loss")(**options)
    widths = loss_config.matryoshka.widths
    if not widths:
        return loss
    weights = loss_config.matryoshka.weights or (1.0,) * len(widths)
    return losses.MatryoshkaLoss(loss, (*widths, projection_dim), (*weights, 1.0))


def with_distillation(
    loss: losses.PairLoss, distillation: DistillationConfig
) -> losses.PairLoss:
    """Returns the loss with the losses of distillation if there is a teacher."""
    if distillation.teacher is None:
        return loss
    options = distillation.model_dump()
    del options["teacher"]
    return losses.DistillationLoss(loss, **options)


def compile_model(model: ALIGN, config: ExperimentConfig) -> None:
    """Compiles the model with the optimizer and the loss of the experiment."""
    towers = config.task.model
    # The projection of an encoder starts with random weights, so its learning rate is
    # not reduced.
    multipliers = {
        f"^{name}/(?!projection/)": getattr(towers, name).learning_rate_multiplier
        for name in ("image_encoder", "text_encoder")
        if getattr(towers, name).learning_rate_multiplier != 1.0
    }
    loss = build_loss(config.task.loss, model.image_encoder.output_shape[-1])
    model.compile(
        optimizer=build_optimizer(
            config.trainer.optimizer_config, config.trainer.train_steps, multipliers
        ),
        loss=with_distillation(loss, config.task.distillation),
        micro_batch_size=config.task.train_data.micro_batch_size,
        loss_upper_bound=config.trainer.loss_upper_bound,
    )
