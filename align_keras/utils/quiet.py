"""Suppresses start-up messages that native libraries print on standard error."""

import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


def silence_tensorflow() -> None:
    """Suppresses the start-up messages of TensorFlow when it is imported later.

    TensorFlow 2.21 and later print messages during the import for any value of
    `TF_CPP_MIN_LOG_LEVEL`. KerasHub imports grain if it is installed, and grain prints
    that JAX is missing. The messages of both imports are suppressed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    load_functions = [getattr(finder, "load", None) for finder in sys.meta_path]
    if _load_silently not in load_functions:
        for package in ("tensorflow", "grain"):
            sys.meta_path.insert(0, WrappedImport(package, _load_silently))


def _load_silently(execute: Callable[[Any], object], module: Any) -> None:
    with silent_standard_error():
        execute(module)


class WrappedImport:
    """Import hook that loads one package by a custom function.

    The other finders locate the package. The base class of finders is not needed, and
    importing it takes a tenth of the time of `--help`.

    Args:
        package: name of the package.
        load: callable that takes the function that executes the module, and the
            module.
    """

    def __init__(
        self, package: str, load: Callable[[Callable[[Any], object], Any], None]
    ) -> None:
        self.package, self.load = package, load
        self._is_searching = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.package or self._is_searching:
            return None
        self._is_searching = True
        try:
            spec: Any = importlib.util.find_spec(name)
        finally:
            self._is_searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = functools.partial(self.load, execute)
        return spec


def start_compiler() -> None:
    """Starts XLA and suppresses the two lines that it prints at its start."""
    import tensorflow as tf

    with silent_standard_error():
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))


@contextlib.contextmanager
def silent_standard_error(file: str | os.PathLike = os.devnull) -> Iterator[None]:
    """Redirects the standard error of native code within the block.

    Args:
        file: path of the file to which the output is appended. By default, the output
            is discarded.
    """
    sys.stderr.flush()
    saved_descriptor = os.dup(2)
    try:
        with open(file, "ab") as log_file:
            os.dup2(log_file.fileno(), 2)
        yield
    finally:
        os.dup2(saved_descriptor, 2)
        os.close(saved_descriptor)
