"""Packages whose native libraries may not load beside another package."""

import sys
from collections.abc import Callable
from typing import Any

from align_keras.utils.quiet import WrappedImport


def raise_import_error_if_broken(package: str) -> None:
    """Makes any error of a package's import an `ImportError`.

    The libraries of tensorflow-text only load beside the minor version of TensorFlow
    that they were built for. Otherwise, the import raises an error of TensorFlow, which
    `except ImportError` doesn't catch. KerasHub and this package then work without the
    package, as if it were missing.

    Args:
        package: name of a package that is imported later.
    """

    def load(execute: Callable[[Any], object], module: Any) -> None:
        try:
            execute(module)
        except ImportError:
            raise
        except Exception as error:
            raise ImportError(
                f"{package} doesn't load: {error}", name=package
            ) from error

    sys.meta_path.insert(0, WrappedImport(package, load))
