"""What a run will take, before it runs: operations, memory, traffic, days."""

from align_keras.planning.device_kinds import DEVICE_KINDS, device_kind
from align_keras.planning.step_plan import RunSizes, StepPlan, plan_step
