"""Classes that Keras opens by name, though neither it nor they are imported yet."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from align_keras.utils.quiet import WrappedImport


def register_with_keras(modules_of_classes: dict[str, str]) -> None:
    """Lets `keras.saving.load_model` open objects of classes whose modules aren't
    imported: stand-ins are registered as soon as Keras is there, which import their
    class when opened.
    """

    def execute_and_register(execute: Callable[[Any], object], module: Any) -> None:
        execute(module)
        _register(module, modules_of_classes)

    keras = sys.modules.get("keras")
    if keras is None:
        sys.meta_path.insert(0, WrappedImport("keras", execute_and_register))
    else:
        _register(keras, modules_of_classes)


def _register(keras: Any, modules_of_classes: Mapping[str, str]) -> None:
    custom_objects = keras.saving.get_custom_objects()
    for name, module in modules_of_classes.items():
        custom_objects.setdefault(f"align_keras>{name}", _stand_in(name, module))


def _stand_in(name: str, module: str) -> type:
    def from_config(config: dict[str, Any]) -> Any:
        return getattr(importlib.import_module(module), name).from_config(config)

    return type(name, (), {"from_config": staticmethod(from_config)})
