"""Common interface of all models that embed images and texts.

`load_model` opens a model by its name. The modules of this package are imported on
first use, so that LiteRT and ONNX models run without TensorFlow.
"""

import importlib
from typing import Any

_PUBLIC = {
    "Embedder": "align_keras.embedders.embedder",
    "load_model": "align_keras.embedders.loading",
    "MTEBEncoder": "align_keras.embedders.mteb_encoder",
    "mteb_model": "align_keras.embedders.mteb_encoder",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'align_keras.embedders' has no attribute {name!r}")
