"""The training loop: checkpoints, logs, progress, strategies, diagnosis."""

from align_keras.training.loop import train_model
