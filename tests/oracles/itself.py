"""Functions that test the process of the oracles."""

import importlib
import os


def process():
    """Returns the id of the process."""
    return os.getpid()


def imported(name):
    """Imports a module. Returns its name."""
    return importlib.import_module(name).__name__
