"""Training loop of runs, with checkpoints, logs, progress bars and diagnosis."""

from align_keras.training.loop import train_model

__all__ = [
    "train_model",
]
