"""Exports of a model to SavedModels, LiteRT files, ONNX files and a search page.

`align-keras export --help` reads the names in this file. Importing it therefore must
not import TensorFlow.
"""

from typing import TYPE_CHECKING, Any

from align_keras.utils.lazy_names import import_name

_PUBLIC = {"export_saved_model": "align_keras.export.saved_model"}

__all__ = [
    "export_saved_model",
]

# Dtypes that halve the size of stored weights. None keeps the dtype of each weight.
WEIGHTS = ("bfloat16", "float16")
QUANTIZATIONS = ("none", "float16", "weight-int8", "dynamic-int8", "int8")
# Default of a page, whose visitors download the model. It has a quarter of the size of
# float32, and the embeddings of align_small_en stay the same.
WEB_QUANTIZATION = "weight-int8"


if TYPE_CHECKING:
    from align_keras.export.saved_model import export_saved_model as export_saved_model
else:

    def __getattr__(name: str) -> Any:
        return import_name(__name__, _PUBLIC, name)
