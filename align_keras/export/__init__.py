"""Exports of a model: SavedModels, LiteRT and ONNX files, and a page that searches.

TensorFlow is imported only when an export is written, since `align-keras export --help`
reads the names in this file.
"""

import importlib
from typing import Any

# Dtypes that halve the size of stored weights. None stores them as they are.
WEIGHTS = ("bfloat16", "float16")
QUANTIZATIONS = ("none", "float16", "weight-int8", "dynamic-int8", "int8")


def __getattr__(name: str) -> Any:
    if name == "export_saved_model":
        module = importlib.import_module(f"{__name__}.saved_model")
        return module.export_saved_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
