"""Callbacks of `fit` and `evaluate`, and the recall of the validation pairs."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from align_keras.evaluation.recall_at_k import chance_recall_at_k, recall_at_k
from align_keras.models.loss_metrics import GRADIENT_NORMS
from align_keras.utils.errors import InputError

# Pairs, about as many as images in the test set of COCO. The embeddings of larger
# validation sets would need more memory in each epoch.
MAX_PAIRS = 5_000
RECALL = "recall_at_10"
CHANCE = "chance_recall_at_10"
# Metrics of a step on the progress bar. All metrics don't fit a terminal.
_DISPLAYED_METRICS = ("loss", "temperature")


class FitCallback(keras.callbacks.Callback):
    """Callback that also receives the data of `ALIGN.fit`, such as `TrainingDoctor`."""

    def on_fit_data(self, x: Any, y: Any, validation_data: Any) -> None:
        """Receives the arguments of `fit` before the first batch is read."""

    def on_fit_batch(self, batch: Any) -> None:
        """Receives the inputs of a step before it runs.

        With `steps_per_execution` above 1 or `run_eagerly`, the batches aren't visible,
        and this method isn't called.
        """


class NonFiniteStepError(InputError):
    """Error for a loss or gradient that isn't finite, or a loss above its bound.

    Args:
        step: number of the update that was skipped, counted from 1.
        values: the metrics of that step, with NaN as `loss`.
        bound: `loss_upper_bound`, or None.
    """

    def __init__(
        self, step: int, values: dict[str, float], bound: float | None
    ) -> None:
        self.step = step
        self.values = values
        ignored = ("loss", *GRADIENT_NORMS)
        losses = [value for name, value in values.items() if name not in ignored]
        self.loss_is_finite = all(map(math.isfinite, losses))
        if not self.loss_is_finite:
            rule = "the loss isn't finite"
        elif not math.isfinite(values["gradient_norm"]):
            rule = "a gradient isn't finite"
        else:
            rule = f"the loss is above loss_upper_bound ({bound})"
        self.problem = f"step {step}: {rule}, so its update was skipped."
        self.remedy = (
            "Lower the learning rate, lengthen the warm-up, clip the gradients "
            "(global_clipnorm), or look for broken pairs in that batch."
        )
        super().__init__(f"{self.problem} {self.remedy}")


class StopAtNonFinite(keras.callbacks.Callback):
    """Callback that raises `NonFiniteStepError` at the first skipped update.

    Attributes:
        has_steps: bool, True if `fit` has made a step.
    """

    has_steps = False

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.has_steps = True
        values = {name: float(value) for name, value in (logs or {}).items()}
        if math.isfinite(values["loss"]):
            return
        step = int(self.model.optimizer.iterations.numpy()) + 1
        raise NonFiniteStepError(step, values, self.model.loss_upper_bound)


class FitProgress(keras.callbacks.ProgbarLogger):
    """Progress bar with the loss and the temperature.

    A line at the end of an epoch has the loss and the recall of the validation data.
    `History` and the other callbacks receive all metrics.
    """

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        super().on_train_batch_end(batch, _displayed(logs))

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        super().on_test_batch_end(batch, _displayed(logs))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        super().on_epoch_end(epoch, _displayed(logs))
        values = logs or {}
        if "val_loss" not in values:
            return
        line = f"validation - loss: {values['val_loss']:.4f}"
        if f"val_{RECALL}" in values:
            recall, chance = values[f"val_{RECALL}"], values[f"val_{CHANCE}"]
            line += f" - recall@10: {recall:.1%} (chance: {chance:.1%})"
        print(line, flush=True)

    def on_test_end(self, logs: dict | None = None) -> None:
        super().on_test_end(_displayed(logs))


def all_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Returns a callback, nested lists of them or a `CallbackList` as a list."""
    return keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or [])


def with_progress(
    callbacks: Sequence[keras.callbacks.Callback], verbose: int | str
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks with `FitProgress`, which replaces the bar of Keras."""
    bars = [one for one in callbacks if isinstance(one, keras.callbacks.ProgbarLogger)]
    if verbose == 0 or bars:
        return list(callbacks)
    return [*callbacks, FitProgress()]


def _displayed(logs: dict[str, Any] | None) -> dict[str, Any]:
    logs = logs or {}
    return {name: logs[name] for name in _DISPLAYED_METRICS if name in logs}


class ValidationPairs:
    """Embeddings of the first `MAX_PAIRS` pairs of an evaluation."""

    def __init__(self) -> None:
        self._images: list[np.ndarray] = []
        self._texts: list[np.ndarray] = []
        self._captions: list[bytes] = []

    def add(self, images: np.ndarray, texts: np.ndarray, tokens: np.ndarray) -> None:
        """Adds a batch.

        Args:
            images: float array (n, d), embeddings.
            texts: float array (n, d), embeddings.
            tokens: int array (n, length), token ids, with -1 for padding.
        """
        rows = MAX_PAIRS - len(self._captions)
        if rows > 0:
            self._images.append(images[:rows])
            self._texts.append(texts[:rows])
            self._captions += [row[row >= 0].tobytes() for row in tokens[:rows]]

    def recall(self) -> dict[str, float]:
        """Returns the recall@10 from captions to images and that of a random ranking.

        The images of equal captions are all correct.
        """
        if not self._captions:
            return {}
        images, texts = np.concatenate(self._images), np.concatenate(self._texts)
        _, groups = np.unique(self._captions, return_inverse=True)
        rows = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
        positives = [rows[group] for group in groups]
        chance = chance_recall_at_k(positives, len(images), (10,))[10]
        if not np.isfinite(images).all() or not np.isfinite(texts).all():
            return {RECALL: float("nan"), CHANCE: chance}
        recall = recall_at_k(texts, images, positives, (10,))[10]
        return {RECALL: recall, CHANCE: chance}
