"""Progress bar of `fit` and `evaluate`."""

from typing import Any

import keras

from align_keras.models.validation_recall import CHANCE, RECALL

# Metrics of a step on the bar. All metrics don't fit a terminal.
_SHOWN = ("loss", "temperature")


class FitProgress(keras.callbacks.ProgbarLogger):
    """Progress bar with the loss and the temperature.

    A line at the end of an epoch has the loss and the recall of the validation data.
    `History` and the other callbacks receive all metrics.
    """

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        super().on_train_batch_end(batch, _shown(logs))

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        super().on_test_batch_end(batch, _shown(logs))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        super().on_epoch_end(epoch, _shown(logs))
        values = logs or {}
        if "val_loss" not in values:
            return
        line = f"validation - loss: {values['val_loss']:.4f}"
        if f"val_{RECALL}" in values:
            recall, chance = values[f"val_{RECALL}"], values[f"val_{CHANCE}"]
            line += f" - recall@10: {recall:.1%} (chance: {chance:.1%})"
        print(line, flush=True)

    def on_test_end(self, logs: dict | None = None) -> None:
        super().on_test_end(_shown(logs))


def with_progress(callbacks: list, verbose: int | str) -> list:
    """Returns the callbacks with `FitProgress`, which replaces the bar of Keras."""
    bars = [one for one in callbacks if isinstance(one, keras.callbacks.ProgbarLogger)]
    if verbose == 0 or bars:
        return callbacks
    return [*callbacks, FitProgress()]


def _shown(logs: dict[str, Any] | None) -> dict[str, Any]:
    return {name: logs[name] for name in _SHOWN if name in logs} if logs else {}
