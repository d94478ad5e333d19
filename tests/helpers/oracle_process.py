"""Asks oracles that import torch, in one process that can't import TensorFlow.

Where torch comes with triton, a process that imports TensorFlow and then torch is
aborted by LLVM. So the modules of `tests.oracles`, which alone may import torch and
what stands on it, are run in a process of their own. It starts at the first question
and lives as long as pytest's; NumPy arrays, numbers, strings and paths go there and
come back.
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
    """What an oracle raised, as the text of its traceback."""


def needs(*packages):
    """A mark that skips where a package isn't installed, without importing any."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(
        bool(absent), reason=f"not installed: {', '.join(absent)}"
    )


def ask(module, function, *arguments, **options):
    """Returns what `tests.oracles.MODULE.FUNCTION(...)` returns in its process."""
    return _pool().submit(_answer, module, function, arguments, options).result()


@functools.cache
def _pool():
    return concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_prepare
    )


def _prepare():
    """Makes a wrong import loud, and ends the process when pytest is killed."""
    for name in ("tensorflow", "keras", "align_keras"):
        sys.modules[name] = None  # Python's way to refuse an import.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _answer(module, function, arguments, options):
    try:
        oracle = importlib.import_module(f"tests.oracles.{module}")
        return getattr(oracle, function)(*arguments, **options)
    except Exception:  # Not every error can be sent, but every text can.
        raise OracleError(traceback.format_exc()) from None
