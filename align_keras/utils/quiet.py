"""Silence for what native libraries print once and nobody needs."""

import contextlib
import functools
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


def silence_tensorflow() -> None:
    """Has TensorFlow print no start-up notes, whenever it is imported after this. Since
    2.21 it writes at its import whatever `TF_CPP_MIN_LOG_LEVEL` says; and grain, which
    KerasHub imports where it is installed, that there is no JAX.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    loads = [getattr(finder, "load", None) for finder in sys.meta_path]
    if _in_silence not in loads:
        for package in ("tensorflow", "grain"):
            sys.meta_path.insert(0, WrappedImport(package, _in_silence))


def _in_silence(execute: Callable[[Any], object], module: Any) -> None:
    with silent_standard_error():
        execute(module)


class WrappedImport(importlib.abc.MetaPathFinder):
    """Has a package, as other finders find it, loaded by `load(execute, module)`."""

    def __init__(
        self, package: str, load: Callable[[Callable[[Any], object], Any], None]
    ) -> None:
        self.package, self.load = package, load
        self._asking = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.package or self._asking:
            return None
        self._asking = True
        try:
            spec: Any = importlib.util.find_spec(name)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = functools.partial(self.load, execute)
        return spec


def start_compiler() -> None:
    """Has XLA compile something: the two lines of its start are printed to nobody."""
    import tensorflow as tf

    with silent_standard_error():
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))


@contextlib.contextmanager
def silent_standard_error(file: str | os.PathLike = os.devnull) -> Iterator[None]:
    """Appends to a file, or nowhere, what native code prints on standard error."""
    sys.stderr.flush()
    saved_descriptor = os.dup(2)
    try:
        with open(file, "ab") as opened:
            os.dup2(opened.fileno(), 2)
        yield
    finally:
        os.dup2(saved_descriptor, 2)
        os.close(saved_descriptor)
