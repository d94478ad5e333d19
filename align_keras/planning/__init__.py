"""Estimates of the operations, memory, network traffic and days of training runs.

`align-keras plan --help` imports this file. Importing it therefore must not import
Pydantic, which the light installation lacks.
"""

from typing import TYPE_CHECKING, Any

from align_keras.planning.device_kinds import find_device_kind
from align_keras.utils.lazy_names import import_name

_PUBLIC = {
    "RunSizes": "align_keras.planning.step_plan",
    "StepPlan": "align_keras.planning.step_plan",
    "plan": "align_keras.planning.run_plan",
    "plan_recipe": "align_keras.planning.run_plan",
    "plan_step": "align_keras.planning.step_plan",
}

__all__ = [
    "RunSizes",
    "StepPlan",
    "find_device_kind",
    "plan",
    "plan_recipe",
    "plan_step",
]


if TYPE_CHECKING:
    from align_keras.planning.run_plan import plan as plan
    from align_keras.planning.run_plan import plan_recipe as plan_recipe
    from align_keras.planning.step_plan import RunSizes as RunSizes
    from align_keras.planning.step_plan import StepPlan as StepPlan
    from align_keras.planning.step_plan import plan_step as plan_step
else:

    def __getattr__(name: str) -> Any:
        return import_name(__name__, _PUBLIC, name)
