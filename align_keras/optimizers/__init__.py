"""Optimizers (LAMB, AdamW, Muon, SGD) and learning-rate schedules."""

from align_keras.optimizers.adamw import AdamW, Muon
from align_keras.optimizers.lamb import Lamb
from align_keras.optimizers.replica_gradients import apply_if
from align_keras.optimizers.sgd import SGD
from align_keras.optimizers.warmup import LinearWarmup, paper_schedule

__all__ = [
    "AdamW",
    "Lamb",
    "LinearWarmup",
    "Muon",
    "SGD",
    "apply_if",
    "paper_schedule",
]
