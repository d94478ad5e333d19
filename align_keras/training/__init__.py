"""Training loop of runs, with checkpoints, logs, progress bars and checks."""

from align_keras.training.checks import Finding
from align_keras.training.doctor import TrainingDoctor
from align_keras.training.loop import train_model

__all__ = [
    "Finding",
    "TrainingDoctor",
    "train_model",
]
