"""Pictures, captions and a vocabulary for exports, and how near they must come."""

import io

import numpy as np
from PIL import Image

from align_keras.text.vocabulary import SPECIAL_TOKENS

LETTERS = "abcdefghijklmnopqrstuvwxyzσ漢"
VOCABULARY = [*SPECIAL_TOKENS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
CAPTIONS = [
    "a red bicycle",
    "TITI I İ ΣΑΣ",
    "Crème [MASK] 漢字 \u200b",
    "",
    "x" * 10_000,
    "👩\u200d🚀",
]

# Keras and the export run the same float32 kernels, but TensorFlow fuses and folds
# some of them in a graph of its own (convolution with batch normalization), each
# with another rounding: 1e-7 relative an operation, some hundred operations deep; 3e-7
# was measured. A wrong weight or token shows at 1e-3 and above.
TOLERANCE = 1e-5


def pictures():
    """One picture a format, of different sizes and modes."""
    source = np.random.default_rng(0)
    result = []
    for format, mode, size in (
        ("PNG", "RGBA", (50, 30)),
        ("PNG", "L", (9, 70)),
        ("JPEG", "RGB", (120, 90)),
        ("GIF", "P", (40, 40)),
        ("BMP", "RGB", (33, 64)),
    ):
        # Each of another color and texture.
        color = source.integers(0, 256, 4)
        noise = source.integers(-90, 90, (size[1], size[0], 4))
        pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode).save(
            buffer, format
        )
        result.append(buffer.getvalue())
    return result
