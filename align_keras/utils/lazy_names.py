"""Public names of a package that are imported on first use."""

import importlib
from collections.abc import Mapping
from typing import Any

from align_keras.utils.errors import needs_tensorflow


def import_name(package: str, modules: Mapping[str, str], name: str) -> Any:
    """Imports a public name of a package, for the `__getattr__` of the package.

    Type checkers would accept any name of a package with `__getattr__`. The package
    therefore hides it from them, and imports the names if `TYPE_CHECKING` is set.

    Args:
        package: name of the package.
        modules: dict from a public name to the module that defines it.
        name: requested name.

    Raises:
        AttributeError: if the package has no such name.
        MissingExtraError: if the name needs TensorFlow, which is not installed.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    with needs_tensorflow(f"`{package}.{name}`"):
        return getattr(importlib.import_module(modules[name]), name)
