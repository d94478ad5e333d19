"""ALIGN, its encoders, preprocessing and presets.

Each name is imported at its first use, so that `import align_keras` stays fast.
"""

from typing import TYPE_CHECKING, Any

from align_keras.utils.lazy_names import import_name

_PUBLIC = {
    "ALIGN": "align_keras.models.align",
    "ALIGNBackbone": "align_keras.models.align_backbone",
    "ALIGNImageConverter": "align_keras.preprocessing.image_converter",
    "ALIGNPreprocessor": "align_keras.preprocessing.preprocessor",
    "ALIGNTokenizer": "align_keras.preprocessing.tokenizer",
    "ImageClassifier": "align_keras.models.image_classifier",
    "ImageEncoder": "align_keras.models.image_encoder",
    "TeacherEmbeddings": "align_keras.data.teacher_embeddings",
    "TextEncoder": "align_keras.models.text_encoder",
    "image_text_batches": "align_keras.data.pair_batches",
    "load_image_weights": "align_keras.models.warm_start",
    "load_text_weights": "align_keras.models.warm_start",
    "preset_names": "align_keras.presets.sizes",
    "presets": "align_keras.presets.table",
}
__all__ = sorted(_PUBLIC)


if TYPE_CHECKING:
    from align_keras.data.pair_batches import image_text_batches as image_text_batches
    from align_keras.data.teacher_embeddings import (
        TeacherEmbeddings as TeacherEmbeddings,
    )
    from align_keras.models.align import ALIGN as ALIGN
    from align_keras.models.align_backbone import ALIGNBackbone as ALIGNBackbone
    from align_keras.models.image_classifier import ImageClassifier as ImageClassifier
    from align_keras.models.image_encoder import ImageEncoder as ImageEncoder
    from align_keras.models.text_encoder import TextEncoder as TextEncoder
    from align_keras.models.warm_start import load_image_weights as load_image_weights
    from align_keras.models.warm_start import load_text_weights as load_text_weights
    from align_keras.preprocessing.image_converter import (
        ALIGNImageConverter as ALIGNImageConverter,
    )
    from align_keras.preprocessing.preprocessor import (
        ALIGNPreprocessor as ALIGNPreprocessor,
    )
    from align_keras.preprocessing.tokenizer import ALIGNTokenizer as ALIGNTokenizer
    from align_keras.presets.sizes import preset_names as preset_names
    from align_keras.presets.table import presets as presets
else:

    def __getattr__(name: str) -> Any:
        return import_name(__name__, _PUBLIC, name)
