"""Checks of a training, one function for each finding."""

from align_keras.training.checks.finding import Finding

__all__ = ["Finding"]
