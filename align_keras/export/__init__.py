"""Exports of a model to SavedModels, LiteRT files, ONNX files and a search page.

`align-keras export --help` reads the names in this file. Importing it therefore must
not import TensorFlow.
"""

import importlib
from typing import Any

__all__ = [
    "export_saved_model",
]

# Dtypes that halve the size of stored weights. None keeps the dtype of each weight.
WEIGHTS = ("bfloat16", "float16")
QUANTIZATIONS = ("none", "float16", "weight-int8", "dynamic-int8", "int8")


def __getattr__(name: str) -> Any:
    if name == "export_saved_model":
        module = importlib.import_module(f"{__name__}.saved_model")
        return module.export_saved_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
