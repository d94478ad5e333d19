"""ALIGN, its encoders, preprocessing and presets.

Each name is imported at its first use, so that `import align_keras` stays fast.
"""

from typing import Any

from align_keras.utils.lazy_names import import_name

_PUBLIC = {
    "ALIGN": "align_keras.models.align",
    "ALIGNBackbone": "align_keras.models.align_backbone",
    "ALIGNImageConverter": "align_keras.models.align_image_converter",
    "ALIGNPreprocessor": "align_keras.models.align_preprocessor",
    "ALIGNTokenizer": "align_keras.models.align_tokenizer",
    "ImageClassifier": "align_keras.models.image_classifier",
    "ImageEncoder": "align_keras.models.image_encoder",
    "TeacherEmbeddings": "align_keras.models.teacher_embeddings",
    "TextEncoder": "align_keras.models.text_encoder",
    "image_text_batches": "align_keras.models.pair_batches",
    "load_image_weights": "align_keras.models.warm_start",
    "load_text_weights": "align_keras.models.warm_start",
    "preset_names": "align_keras.models.preset_table",
    "presets": "align_keras.models.preset_table",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return import_name(__name__, _PUBLIC, name)
