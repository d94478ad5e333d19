"""Runs the reference implementations that need torch in a separate process.

If torch is installed with triton, LLVM aborts a process that imports TensorFlow and
then torch. Only the modules of `tests.oracles` import torch and libraries that depend
on it. They run in a single process that cannot import TensorFlow. The process starts at
the first call and ends with pytest. Arguments and results are NumPy arrays, numbers,
strings and paths.
"""

import concurrent.futures
import functools
import importlib
import importlib.util
import multiprocessing
import os
import sys
import threading
import traceback

import pytest


class OracleError(Exception):
    """Error with the traceback of an exception that an oracle raised."""


def needs(*packages):
    """Returns a mark that skips a test unless all packages are installed.

    The function does not import the packages.
    """
    missing_packages = [
        name for name in packages if importlib.util.find_spec(name) is None
    ]
    return pytest.mark.skipif(
        bool(missing_packages), reason=f"not installed: {', '.join(missing_packages)}"
    )


def call_oracle(module, function, *arguments, **options):
    """Calls a function of `tests.oracles.MODULE` in the process of the oracles."""
    return _pool().submit(_call_function, module, function, arguments, options).result()


@functools.cache
def _pool():
    return concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_prepare
    )


def _prepare():
    """Forbids imports of TensorFlow, and ends the process when pytest is killed."""
    for name in ("tensorflow", "keras", "align_keras"):
        # Python raises an error at the import of a module that is None.
        sys.modules[name] = None
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _call_function(module, function, arguments, options):
    try:
        oracle = importlib.import_module(f"tests.oracles.{module}")
        return getattr(oracle, function)(*arguments, **options)
    except Exception:
        # Some exceptions cannot be pickled, but the text of a traceback always can.
        raise OracleError(traceback.format_exc()) from None
