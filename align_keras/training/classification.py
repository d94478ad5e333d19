"""Training of an `ImageClassifier` in stages, and its evaluation."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from align_keras.models.image_classifier import ImageClassifier
from align_keras.models.on_replicas import on_replicas
from align_keras.optimizers import SGD
from align_keras.training.callbacks import progress_callback
from align_keras.training.checkpoints import RunCheckpoints, checkpoints_in
from align_keras.training.strategies import distributed_batches
from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say


@dataclasses.dataclass(frozen=True)
class FineTuningStage:
    """A stage of fine-tuning; `encoder_multiplier` is of the head's learning rate."""

    make_batches: Callable
    steps: int
    learning_rate: object
    learns_encoder: bool
    encoder_multiplier: float = 1.0


@dataclasses.dataclass(frozen=True)
class Classified:
    """What a classifier says of images.

    `rows` are the images that can be decoded; `ranks`, how many other classes score at
    least as high as the right one; `predictions`, the class that scores highest, of
    equal scores a wrong one, so that it is the right one exactly where the rank is 0.
    """

    rows: np.ndarray
    ranks: np.ndarray
    predictions: np.ndarray


def fine_tune(
    classifier: ImageClassifier,
    stages: Sequence[FineTuningStage],
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    bar: progress_bar | None = None,
    directory: pathlib.Path | None = None,
    checkpoint_interval: int = 1_000,
) -> None:
    """Trains a classifier, stage after stage, each with a new optimizer.

    A stage ends early where the loss isn't finite, and goes on from the checkpoint that
    `directory` has of it. Jia et al. 2021, section 5.3.
    """
    names = [f"stage-{number}" for number in range(len(stages))]
    folders = [directory / name for name in names] if directory else []
    begun = [row for row, folder in enumerate(folders) if checkpoints_in(folder)]
    resumed = max(begun, default=0)
    for number, stage in enumerate(stages[resumed:], start=resumed):
        classifier.image_encoder.trainable = stage.learns_encoder
        compile_stage(classifier, stage, momentum, weight_decay)
        callbacks, step = [keras.callbacks.TerminateOnNaN()], 0
        if folders:
            checkpoints = RunCheckpoints(classifier, folders[number], max_to_keep=1)
            step = checkpoints.restore_latest()
            callbacks.append(_save_every(checkpoints, checkpoint_interval))
        if step:
            say(f"going on at step {step} of stage {number + 1}")
        if bar is not None:
            if step:
                bar.advance(sum(past.steps for past in stages[:number]) + step)
            callbacks.append(progress_callback(bar, 1))
        if step < stage.steps:
            classifier.fit(
                distributed_batches(
                    classifier.distribute_strategy,
                    functools.partial(rows_of_host, stage.make_batches),
                    step,
                ),
                steps_per_epoch=stage.steps - step,
                shuffle=False,  # The batches are.
                verbose=0,
                callbacks=callbacks,
            )


def rows_of_host(
    make_batches: Callable,
    start_step: int,
    input_pipeline_id: int = 0,
    num_input_pipelines: int = 1,
) -> tf.data.Dataset:
    """Returns the batches, of a TPU's several hosts each with its rows."""
    batches = make_batches(start_step)
    if num_input_pipelines == 1:
        return batches

    def rows(*batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(
            tf.split(values, num_input_pipelines)[input_pipeline_id] for values in batch
        )

    return batches.map(rows)


def compile_stage(
    classifier: ImageClassifier,
    stage: FineTuningStage,
    momentum: float,
    weight_decay: float,
) -> None:
    """Compiles the classifier with the optimizer of a stage, ready to restore."""
    pattern = f"^{re.escape(classifier.image_encoder.name)}/"
    with classifier.distribute_strategy.scope():
        classifier.compile(
            optimizer=SGD(
                stage.learning_rate,
                momentum=momentum,
                weight_decay=weight_decay,
                learning_rate_multipliers={pattern: stage.encoder_multiplier},
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        if not classifier.built:
            classifier.build(classifier.image_encoder.input_shape)
        classifier.optimizer.build(classifier.trainable_variables)


def classify(
    classifier: ImageClassifier, batches: tf.data.Dataset, labels: np.ndarray
) -> Classified:
    """Judges a classifier by `evaluation_batches` and the classes of all rows."""
    score = on_replicas(
        getattr(classifier, "distribute_strategy", None),
        tf.function(
            lambda images: classifier(images, training=False),
            input_signature=[batches.element_spec[1]],  # One trace for all lengths.
            autograph=False,
        ),
    )
    labels, found = np.asarray(labels), []
    for rows, images in batches:
        logits = np.array(score(images))  # A copy, to be changed.
        rows = rows.numpy()
        right = np.arange(len(rows)), labels[rows]
        right_logit = logits[right][:, np.newaxis]
        # Not the number of those above: equal scores count against the right class,
        # and so do scores that aren't numbers.
        ranks = np.sum(~(logits < right_logit), axis=1) - 1
        # Where the right class ties with a wrong one, the wrong one was found.
        logits[right] = np.where(ranks == 0, np.inf, -np.inf)
        found.append((rows, ranks, np.argmax(logits, axis=1)))
    if not found:
        raise InputError(
            "images must hold a JPEG, PNG, GIF, BMP or WebP file to judge, received "
            "none that can be decoded; fetch the data again."
        )
    return Classified(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _save_every(checkpoints: RunCheckpoints, interval: int) -> keras.callbacks.Callback:
    """Returns the callback that saves the state every interval of steps."""

    def save(batch: int, logs: dict | None) -> None:
        if checkpoints.step % interval == 0:
            checkpoints.save()

    return keras.callbacks.LambdaCallback(on_train_batch_end=save)
