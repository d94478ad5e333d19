"""A small ALIGN with batch statistics of drawn images, and batches of such images."""

import keras
import numpy as np

from align_keras.images import preprocess_image
from align_keras.models import ALIGN
from tests.helpers.drawings import draw
from tests.helpers.small import VOCABULARY, small_encoders

SIZE = 32


def calibrated_align(lite):
    """Returns a small random ALIGN with batch statistics of drawn images.

    With the initial statistics, random weights would cause features close to zero.

    Args:
        lite: bool, passed to the image encoder.
    """
    keras.utils.set_random_seed(0)
    align = ALIGN.from_encoders(*small_encoders(lite=lite), vocabulary=VOCABULARY)
    pixels = drawn_images(range(500, 512))
    for layer in align.image_encoder._flatten_layers():
        if hasattr(layer, "momentum"):
            layer.momentum = 0.0
    align.image_encoder(pixels, training=True)
    return align


def drawn_images(seeds):
    """Draws an image of each class for each seed.

    Returns:
        Preprocessed pixels (3 * len(seeds), SIZE, SIZE, 3).
    """
    images = [np.asarray(draw(kind, seed)) for seed in seeds for kind in range(3)]
    return np.asarray(preprocess_image(np.stack(images), SIZE))
