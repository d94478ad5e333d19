"""Trains an `ImageClassifier` in stages, and judges it."""

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
from align_keras.training.checkpoints import checkpoint_of
from align_keras.training.strategies import distributed_batches
from align_keras.training.trainer import Progress
from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say


@dataclasses.dataclass(frozen=True)
class FineTuningStage:
    """What one stage of fine-tuning does.

    `make_batches` of the step to start at gives endless images and classes;
    `encoder_multiplier` is the encoder's learning rate by the head's.
    """

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

    @property
    def accuracy(self) -> float:
        """The share of the images whose right class is first."""
        return float(np.mean(self.ranks == 0))


def fine_tune(
    classifier: ImageClassifier,
    stages: Sequence[FineTuningStage],
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    bar: progress_bar | None = None,
    checkpoints: "StageCheckpoints | None" = None,
) -> None:
    """Trains a classifier, stage after stage, each with a new optimizer.

    A stage ends early where the loss isn't finite: what then follows can only be
    judged as bad. `weight_decay` is an L2 penalty, not of biases and normalization.

    Jia et al. 2021, section 5.3.
    """
    resumed, step = checkpoints.newest() if checkpoints else (0, 0)
    for number, stage in enumerate(stages[resumed:], start=resumed):
        classifier.image_encoder.trainable = stage.learns_encoder
        compile_stage(classifier, stage, momentum, weight_decay)
        callbacks = [keras.callbacks.TerminateOnNaN()]
        if checkpoints and step:
            checkpoints.restore(classifier)
        if checkpoints:
            callbacks.append(SaveStage(checkpoints, number, step))
        if bar is not None:
            if step:
                bar.advance(sum(past.steps for past in stages[:number]) + step)
            callbacks.append(Progress(bar, 1))
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
        step = 0


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

    def rows(*batch):
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
    """Judges a classifier by `evaluation_batches` and the classes of all rows.

    Equal scores count against the right class, and so do scores that aren't numbers.
    """
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
        # Not the number of those above: that of scores that aren't numbers is zero.
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


class StageCheckpoints:
    """Keeps one checkpoint of the classifier and its optimizer."""

    def __init__(self, directory, interval):
        self.directory, self.interval = pathlib.Path(directory), interval

    def newest(self) -> tuple[int, int]:
        """Returns the stage and the step of the checkpoint, (0, 0) without one."""
        return max(self._found(), default=(0, 0))

    def restore(self, classifier: ImageClassifier) -> None:
        """Puts the newest state into a classifier, compiled as when it was saved."""
        stage, step = self.newest()
        path = self._found()[stage, step]
        try:
            _checkpoint_of(classifier).read(str(path)).assert_consumed()
        except (tf.errors.OpError, AssertionError, RuntimeError, IndexError) as error:
            raise InputError(
                f"checkpoint {path} is damaged; remove {self.directory}, then run the "
                "same command: the training begins again."
            ) from error
        say(f"going on at step {step} of stage {stage + 1}")

    def save(self, classifier: ImageClassifier, stage: int, step: int) -> None:
        """Writes the checkpoint, then removes the one before."""
        before = self._found().values()
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"stage-{stage}-step-{step}"
        _checkpoint_of(classifier).write(str(path))
        for old in before:
            for file in self.directory.glob(f"{old.name}.*"):
                file.unlink()

    def _found(self):
        found = {}
        for path in self.directory.glob("*.index"):
            match = re.fullmatch(r"stage-(\d+)-step-(\d+)", path.stem)
            if match:
                found[int(match[1]), int(match[2])] = path.with_suffix("")
        return found


class SaveStage(keras.callbacks.Callback):
    """Saves the state every interval of steps, counted from `step` of the stage."""

    def __init__(self, checkpoints, stage, step):
        super().__init__()
        self.checkpoints, self.stage, self.step = checkpoints, stage, step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.step += 1
        if self.step % self.checkpoints.interval == 0:
            self.checkpoints.save(self.model, self.stage, self.step)


def _checkpoint_of(classifier):
    return checkpoint_of(classifier.variables + classifier.optimizer.variables)
