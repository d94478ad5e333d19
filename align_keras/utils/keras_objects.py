"""Registers serializable classes with Keras without importing Keras or the classes."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from align_keras.utils.quiet import WrappedImport


def register_with_keras(modules_of_classes: dict[str, str]) -> None:
    """Registers classes for `keras.saving.load_model` before they are imported.

    A placeholder is registered for each class when Keras is imported. It imports the
    module of its class when Keras loads an object of this class. The real classes are
    registered when KerasHub is imported, because `Backbone.from_preset` of KerasHub
    checks their base classes.

    Args:
        modules_of_classes: dict from class name to the name of its module.
    """

    def execute_and_register(execute: Callable[[Any], object], module: Any) -> None:
        execute(module)
        _register(module, modules_of_classes)

    def execute_and_import(execute: Callable[[Any], object], module: Any) -> None:
        execute(module)
        _import_classes(modules_of_classes)

    keras = sys.modules.get("keras")
    if keras is None:
        sys.meta_path.insert(0, WrappedImport("keras", execute_and_register))
    else:
        _register(keras, modules_of_classes)
    if sys.modules.get("keras_hub") is None:
        sys.meta_path.insert(0, WrappedImport("keras_hub", execute_and_import))
    else:
        _import_classes(modules_of_classes)


def _import_classes(modules_of_classes: Mapping[str, str]) -> None:
    """Imports the modules of all classes, which register their classes."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        is_import = frame.f_code.co_name == "<module>"
        if is_import and frame.f_globals["__name__"].startswith("align_keras."):
            # A module of this package imports KerasHub. The imports below would be
            # circular.
            return
        frame = frame.f_back
    for module_name in dict.fromkeys(modules_of_classes.values()):
        importlib.import_module(module_name)


def _register(keras: Any, modules_of_classes: Mapping[str, str]) -> None:
    custom_objects = keras.saving.get_custom_objects()
    for name, module in modules_of_classes.items():
        custom_objects.setdefault(f"align_keras>{name}", _placeholder(name, module))


def _placeholder(name: str, module: str) -> type:
    """Returns a class whose `from_config` imports and calls the registered class."""

    def from_config(config: dict[str, Any]) -> Any:
        return getattr(importlib.import_module(module), name).from_config(config)

    return type(name, (), {"from_config": staticmethod(from_config)})
