"""Estimates of the operations, memory, network traffic and days of training runs.

`align-keras plan --help` imports this file. Importing it therefore must not import
Pydantic, which the light installation lacks.
"""

from typing import TYPE_CHECKING, Any

from align_keras.utils.lazy_names import import_name

_PUBLIC = {
    "plan": "align_keras.planning.run_plan",
    "plan_recipe": "align_keras.planning.run_plan",
}

__all__ = ["plan", "plan_recipe"]


if TYPE_CHECKING:
    from align_keras.planning.run_plan import plan as plan
    from align_keras.planning.run_plan import plan_recipe as plan_recipe
else:

    def __getattr__(name: str) -> Any:
        return import_name(__name__, _PUBLIC, name)
