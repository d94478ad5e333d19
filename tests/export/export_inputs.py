"""Image files, captions and a vocabulary for tests of exports, and their tolerance."""

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

# Absolute tolerance of embeddings. Keras and the export run the same float32 kernels,
# but TensorFlow fuses some operations of a graph, such as convolution and batch
# normalization. This changes the rounding by 1e-7 per operation, and the measured
# difference is 3e-7. A wrong weight or token causes a difference of at least 1e-3.
TOLERANCE = 1e-5


def sample_image_files():
    """Returns five image files with different formats, modes, sizes and colors.

    The third file is a JPEG.
    """
    rng = np.random.default_rng(0)
    files = []
    for format, mode, size in (
        ("PNG", "RGBA", (50, 30)),
        ("PNG", "L", (9, 70)),
        ("JPEG", "RGB", (120, 90)),
        ("PNG", "P", (40, 40)),
        ("WEBP", "RGB", (33, 64)),
    ):
        color = rng.integers(0, 256, 4)
        noise = rng.integers(-90, 90, (size[1], size[0], 4))
        pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode).save(
            buffer, format
        )
        files.append(buffer.getvalue())
    return files
