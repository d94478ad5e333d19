"""A model as others run it: SavedModels, LiteRT and ONNX towers, a page that searches.

Nothing is imported before it's used: `align-keras export --help` reads the names.
"""

import importlib

# Stored in half the room; None leaves the weights as they are.
WEIGHTS = ("bfloat16", "float16")
QUANTIZATIONS = ("none", "float16", "weight-int8", "dynamic-int8", "int8")


def __getattr__(name):
    if name == "export_saved_model":
        module = importlib.import_module(f"{__name__}.saved_model")
        return module.export_saved_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
