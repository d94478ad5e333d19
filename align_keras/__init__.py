"""ALIGN in Keras: image and text embeddings learned from noisy alt-text.

Names are imported when they are first used, so that `import align_keras`
doesn't load TensorFlow.

References:
    Jia et al. 2021, "Scaling Up Visual and Vision-Language Representation
    Learning With Noisy Text Supervision", arXiv:2102.05918.
"""

import importlib

_PUBLIC = {
    "ALIGN": "align_keras.models",
    "ImageEncoder": "align_keras.models",
    "TextEncoder": "align_keras.models",
    "Lamb": "align_keras.optimizers",
    "presets": "align_keras.models",
    "contrastive_loss": "align_keras.losses",
    "export_saved_model": "align_keras.export",
    "learn_vocabulary": "align_keras.text",
    "WordPieceTokenizer": "align_keras.text",
    "recall_at_k": "align_keras.evaluation",
    "InputError": "align_keras.utils.errors",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'align_keras' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_PUBLIC])
