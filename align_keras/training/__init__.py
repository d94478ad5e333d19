"""The trainer: loops of `fit`, checkpoints, logs, progress."""

from align_keras.training.trainer import train
