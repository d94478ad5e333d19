"""What the oracles' process says of itself."""

import importlib
import os


def process():
    return os.getpid()


def imported(name):
    """Imports a module, and returns its name."""
    return importlib.import_module(name).__name__
