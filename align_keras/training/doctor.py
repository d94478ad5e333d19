"""Callback that checks a training and prints its problems."""

import dataclasses
import json
import os
import pathlib
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from align_keras.data.fit_input import as_x_and_y
from align_keras.data.raw_pairs import plain_data, raw_pairs
from align_keras.models.fit_callbacks import FitCallback
from align_keras.models.inference import on_replicas
from align_keras.text.vocabulary import SPECIAL_TOKENS
from align_keras.training.checks import inputs, learning, training_pairs
from align_keras.training.checks.finding import Finding
from align_keras.utils.files import atomic_write
from align_keras.utils.progress import say

# Steps between two checks. At 100 steps, a check takes less than 1% of the time.
CHECK_INTERVAL = 100
# Steps after the warm-up, at the end of a training and during it. A model that has made
# fewer steps may not have learned yet. A longer training may start slowly.
MIN_STEPS = 100
PATIENT_STEPS = 500
# Steps of a training that is too short for the checks after the warm-up, but long
# enough for a hint if it has learned nothing.
HINT_STEPS = 50
# Steps of a block, over which the loss is averaged. Single losses are too noisy.
BLOCK_STEPS = 10
# Steps at the start of `fit`, in which the graph is traced and the pipeline fills its
# buffers. Their time is ignored.
UNTIMED_STEPS = 3
# Number of images and captions that are embedded in a check.
SAMPLE_ROWS = 32
# Findings that explain why the loss or the embeddings are wrong.
CAUSES = frozenset(
    ("images_alike", "unknown_tokens", "no_gradient", "temperature_at_bound")
)
# File of a run with the findings.
FINDINGS_FILE = "findings.json"


@dataclasses.dataclass
class Sample:
    """Inputs of a checked batch.

    Attributes:
        images: array (at most 32, height, width, 3).
        token_ids: int array (n, length), all captions of this process.
        padding_mask: array (n, length).
        pairs: pairs of the batch over all workers.
    """

    images: np.ndarray
    token_ids: np.ndarray
    padding_mask: np.ndarray
    pairs: int


class TrainingDoctor(FitCallback):
    """Callback that checks a training for common problems.

    Pass it to `ALIGN.fit`. Experiments add it by themselves. Each finding is printed
    once, as a sentence with the problem and a sentence with the remedy.

    The inputs are checked at the first step and every 100 steps. The gradients, the
    wait for input and a learning rate that is too high are checked every 100 steps and
    at the end. A model must have learned 500 steps after the warm-up, or 100 steps
    after it if the training ends. A shorter training of at least 50 steps gets a hint
    if it has learned nothing. With `steps_per_execution` above 1 or `run_eagerly`,
    the batches aren't visible, and only the gradients and the pairs are checked.

    Args:
        pair_count: number of training pairs. None skips its check.
        path: file to which the findings are written as JSON, such as
            `findings.json`. A resumed training reads it.
        verbose: 0 doesn't print the findings.

    Attributes:
        findings: list of `Finding`.

    Example:

    ```python
    images = ["photos/china.jpg", "photos/flower.jpg"]
    captions = ["a temple in China", "a red flower"]
    vocabulary = align_keras.learn_vocabulary(captions, 100)
    model = align_keras.ALIGN.from_preset("align_nano", vocabulary=vocabulary)
    model.compile()
    doctor = align_keras.training.TrainingDoctor()
    model.fit(images, captions, callbacks=[doctor])
    [finding.name for finding in doctor.findings]
    ```
    """

    def __init__(
        self,
        pair_count: int | None = None,
        path: str | os.PathLike | None = None,
        verbose: int = 1,
    ) -> None:
        super().__init__()
        self.pair_count = pair_count
        self.path = None if path is None else pathlib.Path(path)
        self.verbose = verbose
        self.findings: list[Finding] = []
        self._reset()

    def _reset(self) -> None:
        """Forgets the measurements of an earlier training."""
        self._steps = 0
        self._checked_steps = 0
        self._sample: Sample | None = None
        # Sums of `LossMetrics` after the last step, at the last check, and since the
        # start of the block.
        self._sums: Any = None
        self._interval_sums: Any = 0.0
        self._block_sums: Any = 0.0
        self._initial_loss: float | None = None
        self._losses: list[float] = []
        self._rate = 0.0
        self._highest_rate = 0.0
        self._warmup_end = 0
        self._seconds = 0.0
        self._waited = 0.0

    def add(self, finding: Finding | None) -> None:
        """Records a finding, and prints it unless it was printed before."""
        if finding is None or self.has_found(finding.name):
            return
        self.findings.append(finding)
        self._write()
        if self.verbose:
            say(f"training problem: {finding}")

    def has_found(self, *names: str) -> bool:
        """Returns True if there is a finding with one of the names."""
        return any(finding.name in names for finding in self.findings)

    def on_fit_data(self, x: Any, y: Any, validation_data: Any) -> None:
        """Counts the pairs of `fit` and compares them with the validation images.

        Data that can only be read once, such as datasets, are neither counted nor
        compared.

        Args:
            x: argument of `ALIGN.fit`.
            y: argument of `ALIGN.fit`.
            validation_data: argument of `ALIGN.fit`.
        """
        images = _images_of(x, y)
        if self.pair_count is None and hasattr(images, "__len__"):
            self.pair_count = len(images)
        if validation_data is None:
            return
        counts = training_pairs.count_shared_images(
            images, _images_of(*as_x_and_y(validation_data))
        )
        if counts is not None:
            self.add(training_pairs.check_shared_images(*counts))

    # === Methods of Keras ===

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._reset()
        self._initial_temperature = float(self.model.temperature)
        if self.path is not None:
            earlier = read_findings(self.path) or []
            self.findings += [
                finding
                for finding in earlier
                if finding.step <= self._step() and not self.has_found(finding.name)
            ]
            self._write()
        if self.pair_count:
            weights = sum(
                int(np.prod(variable.shape))
                for variable in self.model.trainable_variables
            )
            self.add(training_pairs.check_pair_count(self.pair_count, weights))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._sums = self._read_sums()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self._start = time.perf_counter()
        self._start_wait = self.model.seconds_waited

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        seconds = time.perf_counter() - self._start
        sums = self._read_sums()
        step_sums = sums - self._sums
        count = round(step_sums[0])
        if count < 1:
            # A resumed loop skips the steps that it has made before.
            return
        self._sums = sums
        is_first = self._steps == 0
        self._steps += count
        self._block_sums += step_sums
        self._interval_sums += step_sums
        if self._steps > UNTIMED_STEPS:
            self._seconds += seconds
            self._waited += self.model.seconds_waited - self._start_wait
        if is_first:
            self._initial_loss = float(step_sums[2]) / count
            self._rate = self._read_rate()
            self._check_inputs()
        if self._block_sums[0] >= BLOCK_STEPS:
            self._end_block()
        if self._steps - self._checked_steps >= CHECK_INTERVAL:
            self._check_inputs()
            self._check_learning(PATIENT_STEPS)

    def on_fit_batch(self, batch: Any) -> None:
        next_step = self._steps + 1
        if next_step == 1 or next_step - self._checked_steps >= CHECK_INTERVAL:
            self._sample = self._sample_of(batch)

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._steps:
            self._check_learning(MIN_STEPS)
            self._check_too_few_steps()

    # === Measurements ===

    def _step(self) -> int:
        """Returns the number of updates of the model."""
        return int(self.model.optimizer.iterations.numpy())

    def _read_sums(self) -> np.ndarray:
        """Returns the sums of `LossMetrics` since the start of the epoch."""
        # The conversion of Keras takes a millisecond.
        return self.model.loss_metrics[0].sums.value.numpy().astype("float64")

    def _read_rate(self) -> float:
        """Returns the current learning rate."""
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._highest_rate = max(self._highest_rate, rate)
        return rate

    def _end_block(self) -> None:
        """Appends the mean loss of a block of steps."""
        self._losses.append(float(self._block_sums[2] / self._block_sums[0]))
        self._block_sums = 0.0
        rate = self._read_rate()
        if rate > self._rate:
            self._warmup_end = self._steps
        self._rate = rate

    def _sample_of(self, data: Any) -> Sample:
        """Returns some inputs of a batch that is about to be checked."""
        batch = keras.utils.unpack_x_y_sample_weight(data)[0]
        strategy = self.model.distribute_strategy
        images = strategy.experimental_local_results(batch["images"])
        token_ids = _all_rows(strategy, batch["token_ids"])
        padding_mask = _all_rows(strategy, batch["padding_mask"])
        workers = strategy.num_replicas_in_sync // len(images)
        return Sample(
            images=np.asarray(images[0][:SAMPLE_ROWS]),
            token_ids=token_ids,
            padding_mask=padding_mask,
            pairs=len(token_ids) * max(workers, 1),
        )

    def _embeddings(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Returns the embeddings of images, and of different captions, in inference."""
        model = self.model
        _, rows = np.unique(sample.token_ids, axis=0, return_index=True)
        rows = np.sort(rows)[:SAMPLE_ROWS]
        images = on_replicas(
            model.distribute_strategy,
            lambda part: tf.cast(model.image_encoder(part, training=False), "float32"),
        )
        texts = on_replicas(
            model.distribute_strategy,
            lambda part: tf.cast(model.text_encoder(part, training=False), "float32"),
        )
        captions = {
            "token_ids": sample.token_ids[rows],
            "padding_mask": sample.padding_mask[rows],
        }
        return images(sample.images), texts(captions)

    # === Checks ===

    def _check_inputs(self) -> None:
        """Checks the images and captions of the sample."""
        sample = self._sample
        if sample is None:
            return
        step = self._step()
        self.add(inputs.check_images(sample.images, step))
        vocabulary = self.model.vocabulary
        if vocabulary is not None:
            special = {token: vocabulary.index(token) for token in SPECIAL_TOKENS}
            unknown = special.pop("[UNK]")
            no_words = tuple(special.values())
            self.add(
                inputs.check_unknown_tokens(sample.token_ids, unknown, no_words, step)
            )

    def _check_learning(self, min_steps: int) -> None:
        """Checks losses, gradients, temperature, embeddings and the wait for input.

        Args:
            min_steps: steps after the warm-up before the model must have learned.
        """
        step = self._step()
        self._checked_steps = self._steps
        sums, self._interval_sums = self._interval_sums, 0.0
        seconds, self._seconds = self._seconds, 0.0
        waited, self._waited = self._waited, 0.0
        self.add(inputs.check_wait(waited, seconds, step))
        self._check_rate_too_high(step)
        if self.has_found("learning_rate_too_high"):
            # The other measurements are consequences.
            return
        if self._steps >= BLOCK_STEPS and np.any(sums):
            self._check_gradients(sums, step)
        if self._steps - self._warmup_end < min_steps:
            return
        self._check_temperature(step)
        if not self.has_found(*CAUSES):
            self._check_loss(step)
        if not self.has_found(*CAUSES, "learning_rate_too_low"):
            self._check_embeddings(step)

    def _check_gradients(self, sums: np.ndarray, step: int) -> None:
        model_norm, image_norm, text_norm = sums[-3:] / max(sums[1], 1.0)
        model = self.model
        encoders = {"image": model.image_encoder, "text": model.text_encoder}
        trained = [name for name in encoders if encoders[name].trainable_variables]
        norms = {"image": float(image_norm), "text": float(text_norm)}
        self.add(learning.check_gradients(norms, float(model_norm), trained, step))

    def _chance(self) -> float | None:
        """Returns the loss of a random guess for a batch, or None if it is unknown."""
        sample = self._sample
        if sample is None or sample.pairs < 2:
            return None
        return learning.chance_loss(self.model.loss, sample.pairs)

    def _check_rate_too_high(self, step: int) -> None:
        chance = self._chance()
        if chance is None or self._initial_loss is None:
            return
        if self.has_found("loss_at_chance"):
            return
        self.add(
            learning.check_rate_too_high(
                self._losses, self._initial_loss, chance, step, self._highest_rate
            )
        )

    def _check_temperature(self, step: int) -> None:
        if self._chance() is None:
            return
        temperature = float(self.model.temperature)
        self.add(
            learning.check_temperature(temperature, self._initial_temperature, step)
        )

    def _check_loss(self, step: int) -> None:
        chance = self._chance()
        if chance is None or self._sample is None or not self._losses:
            return
        rate = self._highest_rate
        loss = float(learning.running_means(self._losses)[-1])
        too_low = learning.check_rate_too_low(self._losses, chance, step, rate)
        if too_low is not None:
            self.add(too_low)
            return
        pairs = self._sample.pairs
        self.add(learning.check_loss_at_chance(loss, chance, pairs, step, rate))

    def _check_too_few_steps(self) -> None:
        """Checks the loss of a training that ends before `_check_loss` applies."""
        chance = self._chance()
        if chance is None or self._sample is None:
            return
        is_short = self._steps - self._warmup_end < MIN_STEPS
        if not is_short or self._steps < HINT_STEPS:
            return
        if not self.has_found(*CAUSES, "learning_rate_too_high"):
            loss = float(learning.running_means(self._losses)[-1])
            pairs = self._sample.pairs
            self.add(learning.check_too_few_steps(loss, chance, pairs, self._step()))

    def _check_embeddings(self, step: int) -> None:
        chance = self._chance()
        if self._sample is None or not self._losses:
            return
        if chance is not None and learning.has_learned(self._losses, chance):
            return
        images, texts = self._embeddings(self._sample)
        has_negatives = chance is not None
        self.add(learning.check_collapse(images, texts, has_negatives, step))

    def _write(self) -> None:
        """Writes `findings.json`."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as file:
            json.dump([finding.as_dict() for finding in self.findings], file, indent=1)


def _all_rows(strategy: tf.distribute.Strategy, values: Any) -> np.ndarray:
    """Returns the rows of all replicas of this process."""
    parts = strategy.experimental_local_results(values)
    return np.concatenate([np.asarray(part) for part in parts])


def _images_of(x: Any, y: Any = None) -> Any:
    """Returns the images of data of `fit`, or None if they can't be counted."""
    x, y = plain_data(x), plain_data(y)
    raw = raw_pairs(x, y)
    if raw is not None:
        images = raw[0]
    elif isinstance(x, dict):
        images = x.get("images")
    else:
        images = None
    return None if isinstance(images, tf.data.Dataset) else images


def read_findings(path: str | os.PathLike) -> list[Finding] | None:
    """Reads `findings.json`.

    Returns:
        list of `Finding`, or None if the file doesn't exist.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return None
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [Finding.from_dict(entry) for entry in entries]
