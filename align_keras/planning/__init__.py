"""Estimates of the operations, memory, network traffic and days of training runs."""

from align_keras.planning.device_kinds import DEVICE_KINDS, find_device_kind
from align_keras.planning.run_plan import (
    NUM_CLASSES,
    NUM_IMAGES,
    TEXT_UTILIZATION,
    UTILIZATION,
    plan,
    plan_recipe,
)
from align_keras.planning.step_plan import RunSizes, StepPlan, plan_step

__all__ = [
    "RunSizes",
    "StepPlan",
    "find_device_kind",
    "plan",
    "plan_recipe",
    "plan_step",
]
