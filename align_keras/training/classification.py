"""Fine-tuning of an `ImageClassifier` in stages, and its evaluation."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from align_keras.models.image_classifier import ImageClassifier
from align_keras.models.inference import on_replicas
from align_keras.optimizers import SGD
from align_keras.training.callbacks import progress_callback
from align_keras.training.checkpoints import RunCheckpoints, checkpoints_in
from align_keras.training.strategies import distributed_batches
from align_keras.utils.progress import progress_bar, say


@dataclasses.dataclass(frozen=True)
class FineTuningStage:
    """Stage of fine-tuning.

    Attributes:
        make_batches: function of a start step that returns an endless
            `tf.data.Dataset` of images and labels.
        steps: number of updates.
        learning_rate: float or `LearningRateSchedule`, of the head.
        learns_encoder: train the image encoder too.
        encoder_multiplier: > 0, learning rate of the encoder relative to that of
            the head.
    """

    make_batches: Callable
    steps: int
    learning_rate: object
    learns_encoder: bool
    encoder_multiplier: float = 1.0


@dataclasses.dataclass(frozen=True)
class Classified:
    """Results of a classifier for a set of images.

    The three arrays have an entry for each image that can be decoded.

    Attributes:
        rows: int64 (n,), row numbers of these images.
        ranks: int (n,), number of wrong classes whose score is at least that of the
            correct class.
        predictions: int (n,), class with the highest score. If a wrong class has the
            same score as the correct one, the wrong class counts, so the prediction is
            correct exactly if the rank is 0.
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
    """Trains a classifier in stages, each with a new optimizer.

    A stage ends early if the loss isn't finite.

    Args:
        classifier: `ImageClassifier`.
        stages: sequence of `FineTuningStage`.
        momentum: in [0, 1), momentum of SGD.
        weight_decay: ≥ 0, weight decay of SGD.
        bar: progress bar, which advances by one per step, or None.
        directory: folder of the checkpoints, or None to save no checkpoints. Training
            resumes from the checkpoint of the last stage that has one.
        checkpoint_interval: steps between checkpoints.

    References:
        Jia et al. 2021, section 5.3.
    """
    names = [f"stage-{number}" for number in range(len(stages))]
    folders = [directory / name for name in names] if directory else []
    started = [row for row, folder in enumerate(folders) if checkpoints_in(folder)]
    first = max(started, default=0)
    for number, stage in enumerate(stages[first:], start=first):
        classifier.image_encoder.trainable = stage.learns_encoder
        compile_stage(classifier, stage, momentum, weight_decay)
        callbacks, step = [keras.callbacks.TerminateOnNaN()], 0
        if folders:
            checkpoints = RunCheckpoints(classifier, folders[number], max_to_keep=1)
            step = checkpoints.restore_latest()
            callbacks.append(_save_every(checkpoints, checkpoint_interval))
        if step:
            say(f"resuming at step {step} of stage {number + 1}")
        if bar is not None:
            if step:
                bar.advance(sum(earlier.steps for earlier in stages[:number]) + step)
            callbacks.append(progress_callback(bar, 1))
        if step < stage.steps:
            classifier.fit(
                distributed_batches(
                    classifier.distribute_strategy,
                    functools.partial(rows_of_host, stage.make_batches),
                    step,
                ),
                steps_per_epoch=stage.steps - step,
                shuffle=False,  # `make_batches` has shuffled the images.
                verbose=0,
                callbacks=callbacks,
            )


def rows_of_host(
    make_batches: Callable,
    start_step: int,
    input_pipeline_id: int = 0,
    num_input_pipelines: int = 1,
) -> tf.data.Dataset:
    """Returns the part of each batch that one host of a distributed run reads."""
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
    """Compiles the classifier with the optimizer of a stage.

    The variables of the optimizer are created, so that a checkpoint can be restored.
    """
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
    """Classifies images and compares the results with their labels.

    Args:
        classifier: `ImageClassifier`, or another function of images that returns
            logits.
        batches: `evaluation_batches` of the images.
        labels: int array, classes of all images, including those that can't be decoded.

    Raises:
        InputError: if no image can be decoded.
    """
    score = on_replicas(
        getattr(classifier, "distribute_strategy", None),
        tf.function(
            lambda images: classifier(images, training=False),
            # The signature allows any number of rows, so there is only one trace.
            input_signature=[batches.element_spec[1]],
            autograph=False,
        ),
    )
    labels = np.asarray(labels)
    all_rows: list[np.ndarray] = []
    all_ranks: list[np.ndarray] = []
    all_predictions: list[np.ndarray] = []
    for batch_rows, images in batches:
        rows = batch_rows.numpy()
        # The logits are copied, since they are changed below.
        logits = np.array(score(images))
        correct = np.arange(len(rows)), labels[rows]
        correct_logits = logits[correct][:, np.newaxis]
        # `~(a < b)` instead of `a >= b` counts NaN against the correct class too.
        ranks = np.sum(~(logits < correct_logits), axis=1) - 1
        # A tie with a wrong class counts as a wrong prediction.
        logits[correct] = np.where(ranks == 0, np.inf, -np.inf)
        all_rows.append(rows)
        all_ranks.append(ranks)
        all_predictions.append(np.argmax(logits, axis=1))
    return Classified(
        rows=np.concatenate(all_rows),
        ranks=np.concatenate(all_ranks),
        predictions=np.concatenate(all_predictions),
    )


def _save_every(checkpoints: RunCheckpoints, interval: int) -> keras.callbacks.Callback:
    """Returns a callback that saves a checkpoint every `interval` steps."""

    def save(batch: int, logs: dict | None) -> None:
        if checkpoints.step % interval == 0:
            checkpoints.save()

    return keras.callbacks.LambdaCallback(on_train_batch_end=save)
