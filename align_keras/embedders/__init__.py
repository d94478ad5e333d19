"""Common interface of all models that embed images and texts.

`load_model` opens a model by its name. The modules of this package are imported on
first use, so that LiteRT and ONNX models run without TensorFlow.
"""

from typing import TYPE_CHECKING, Any

from align_keras.utils.lazy_names import import_name

_PUBLIC = {
    "Embedder": "align_keras.embedders.embedder",
    "LabelThresholds": "align_keras.embedders.label_thresholds",
    "load_model": "align_keras.embedders.loading",
    "MTEBEncoder": "align_keras.embedders.mteb_encoder",
    "mteb_model": "align_keras.embedders.mteb_encoder",
}
__all__ = sorted(_PUBLIC)


if TYPE_CHECKING:
    from align_keras.embedders.embedder import Embedder as Embedder
    from align_keras.embedders.label_thresholds import (
        LabelThresholds as LabelThresholds,
    )
    from align_keras.embedders.loading import load_model as load_model
    from align_keras.embedders.mteb_encoder import MTEBEncoder as MTEBEncoder
    from align_keras.embedders.mteb_encoder import mteb_model as mteb_model
else:

    def __getattr__(name: str) -> Any:
        return import_name(__name__, _PUBLIC, name)
