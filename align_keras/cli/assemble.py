"""From an experiment's configuration to corpora, model, optimizer and batches."""

import dataclasses
import pathlib

import keras

from align_keras.data import training_batches
from align_keras.data.retrieval_set import read_captions
from align_keras.datasets import build_corpus
from align_keras.models import (
    ALIGN,
    ImageEncoder,
    TextEncoder,
    load_image_weights,
    load_text_weights,
)
from align_keras.models.sizes import (
    image_encoder_arguments,
    preset_config,
    text_encoder_arguments,
)
from align_keras.models.warm_start import project_class_names, text_vocabulary
from align_keras.optimizers import AdamW, Lamb, LinearWarmup
from align_keras.text import learn_vocabulary, load_vocabulary, save_vocabulary
from align_keras.training import TrainingSchedule
from align_keras.utils.progress import progress_bar, say


def prepare_corpus(data):
    """Builds the corpus of a data configuration, or opens the built one."""
    bars, totals = [], []

    def progress(done, total):
        if totals[-1:] != [total]:  # A mixture's grows as its next corpus begins.
            start = bars[-1].done if bars else 0
            stop()
            title = f"building {data.corpus}"
            bars.append(progress_bar(title, "pictures", total, start))
            totals.append(total)
            bars[-1].start()
        bars[-1].advance(done - bars[-1].done)

    def stop():
        for bar in bars[-1:]:
            bar.stop()

    try:
        return build_corpus(
            data.corpus,
            data_dir=data.tfds_data_dir,
            pairs=data.pairs,
            image_column=data.image_column,
            caption_column=data.caption_column,
            encoding=data.encoding,
            max_bad_fraction=data.max_bad_fraction,
            progress=progress,
        )
    finally:
        stop()


def prepare_vocabulary(config, builder, directory):
    """Takes the vocabulary of the text weights, or learns it from the captions.

    Once a run: it is kept in the run's folder.
    """
    path = pathlib.Path(directory) / "vocabulary.txt"
    if path.exists():
        return load_vocabulary(path)
    weights = config.task.model.text_encoder.weights
    if weights is not None:
        vocabulary = text_vocabulary(weights)
    else:
        say("learning the vocabulary from the training captions")
        captions = read_captions(builder, config.task.train_data.tfds_split)
        size = config.task.model.text_encoder.vocabulary_size
        vocabulary = learn_vocabulary(captions, size)
    save_vocabulary(vocabulary, path)
    return vocabulary


def build_model(model_config, vocabulary=None):
    """Builds ALIGN as `task.model` describes it.

    Args:
        model_config: `ModelConfig`.
        vocabulary: list of str, or None for the size that the configuration
            names, without a tokenizer.

    Returns:
        `ALIGN` with random weights, but for towers that start from `weights`.
    """
    model_config = with_preset(model_config)
    image_encoder = build_image_encoder(model_config)
    text_encoder = build_text_encoder(model_config, vocabulary)
    model = ALIGN(
        image_encoder,
        text_encoder,
        vocabulary=vocabulary,
        initial_temperature=model_config.initial_temperature,
        learn_temperature=model_config.learn_temperature,
    )
    if model_config.image_encoder.weights is not None:
        load_image_weights(image_encoder, model_config.image_encoder.weights)
    if model_config.text_encoder.weights is not None:
        load_text_weights(text_encoder, model_config.text_encoder.weights)
    if model_config.project_class_names:
        project_class_names(model)
    return model


def with_preset(model_config):
    """Returns the configuration with its preset's variants and sizes."""
    if model_config.preset is None:
        return model_config
    sizes = preset_config(model_config.preset)
    return dataclasses.replace(
        model_config,
        image_encoder=dataclasses.replace(
            model_config.image_encoder,
            variant=sizes["image_encoder"],
            image_size=sizes["image_size"],
        ),
        text_encoder=dataclasses.replace(
            model_config.text_encoder,
            variant=sizes["text_encoder"],
            sequence_length=sizes["sequence_length"],
        ),
        projection_dim=sizes["projection_dim"],
    )


def build_image_encoder(model_config):
    """Builds the image tower, with random weights."""
    image = model_config.image_encoder
    return ImageEncoder(
        **image_encoder_arguments(
            image.variant,
            model_config.projection_dim,
            image.width_coefficient,
            image.depth_coefficient,
            image.num_classes,
        ),
        image_size=image.image_size,
        drop_connect_rate=image.drop_connect_rate,
        batch_norm_momentum=image.batch_norm_momentum,
        batch_norm_epsilon=image.batch_norm_epsilon,
        freeze_batch_statistics=image.freeze_batch_statistics,
        rematerialize=image.rematerialize,
        locked=image.locked,
    )


def build_text_encoder(model_config, vocabulary):
    """Builds the text tower, with random weights."""
    text = model_config.text_encoder
    sizes = text_encoder_arguments(text.variant)
    own = {name: getattr(text, name) for name in sizes}
    sizes.update({name: size for name, size in own.items() if size is not None})
    return TextEncoder(
        vocabulary_size=len(vocabulary) if vocabulary else text.vocabulary_size,
        projection_dim=model_config.projection_dim if text.projection else None,
        dropout=text.dropout,
        sequence_length=text.sequence_length,
        max_sequence_length=text.max_sequence_length,
        activation=text.activation,
        pooling=text.pooling,
        locked=text.locked,
        **sizes,
    )


def build_optimizer(optimizer_config, train_steps, learning_rate_multipliers=None):
    """Builds the optimizer with its schedule and warm-up."""
    chosen = optimizer_config.optimizer.get()
    optimizer = Lamb if optimizer_config.optimizer.type == "lamb" else AdamW
    return optimizer(
        build_schedule(optimizer_config, train_steps),
        beta_1=chosen.beta_1,
        beta_2=chosen.beta_2,
        epsilon=chosen.epsilon,
        weight_decay=chosen.weight_decay,
        exclusions=chosen.exclude_from_weight_decay,
        learning_rate_multipliers=learning_rate_multipliers,
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
    rate = getattr(chosen, chosen.type)
    if chosen.type == "constant":
        after = rate.learning_rate
    else:
        decay_steps = rate.decay_steps or train_steps - warmup_steps
        if chosen.type == "linear":
            after = keras.optimizers.schedules.PolynomialDecay(
                rate.initial_learning_rate, decay_steps, rate.end_learning_rate
            )
        else:
            after = keras.optimizers.schedules.CosineDecay(
                rate.initial_learning_rate, decay_steps, rate.alpha
            )
    start = warmup.linear.warmup_learning_rate if warmup_steps else 0.0
    return LinearWarmup(after, warmup_steps, start)


def compile_model(model, config):
    """Compiles the model with the optimizer and the loss of the experiment."""
    loss = config.task.loss
    model.compile(
        optimizer=build_optimizer(
            config.trainer.optimizer_config,
            config.trainer.train_steps,
            learning_rate_multipliers(config.task.model),
        ),
        label_smoothing=loss.label_smoothing,
        reduction=loss.reduction,
        share_equal_captions=loss.share_equal_captions,
    )


def training_schedule(trainer):
    """The trainer's intervals as a `TrainingSchedule`."""
    return TrainingSchedule(
        train_steps=trainer.train_steps,
        steps_per_loop=trainer.steps_per_loop,
        checkpoint_interval=trainer.checkpoint_interval,
        validation_interval=trainer.validation_interval,
        max_to_keep=trainer.max_to_keep,
    )


def batch_maker(config, builder, model):
    """Returns the function of the start step that makes the training batches."""
    data = config.task.train_data

    def make_batches(start_step):
        return training_batches(
            builder,
            data.tfds_split,
            model.tokenizer,
            image_size=model.image_size,
            batch_size=data.global_batch_size,
            seed=config.trainer.seed if data.seed is None else data.seed,
            start_step=start_step,
            shuffle_buffer_size=data.shuffle_buffer_size,
            cache=data.cache,
            crop=data.random_crop,
            flip=data.random_flip,
            zoom=data.random_zoom,
            shift=data.random_shift,
            recolor=data.random_recolor,
        )

    return make_batches
