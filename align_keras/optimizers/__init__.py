"""LAMB, AdamW and the learning-rate schedules."""

from align_keras.optimizers.adamw import AdamW
from align_keras.optimizers.lamb import Lamb
from align_keras.optimizers.warmup import LinearWarmup, paper_schedule
