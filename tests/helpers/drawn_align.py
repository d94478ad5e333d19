"""A small ALIGN whose normalizations know drawn images, and such images."""

import keras
import numpy as np

from align_keras.images import preprocess_image
from align_keras.models import ALIGN
from tests.helpers.drawings import draw
from tests.helpers.small import VOCABULARY, small_encoders

SIZE = 32


def trained_statistics(lite):
    """A small ALIGN whose normalizations know pictures; without, features vanish."""
    keras.utils.set_random_seed(0)
    align = ALIGN(*small_encoders(lite=lite), vocabulary=VOCABULARY)
    pixels = pictures(range(500, 512))
    for layer in align.image_encoder._flatten_layers():
        if hasattr(layer, "momentum"):
            layer.momentum = 0.5
    for _ in range(6):
        align.image_encoder(pixels, training=True)
    return align


def pictures(seeds):
    drawn = [np.asarray(draw(kind, seed)) for seed in seeds for kind in range(3)]
    return np.asarray(preprocess_image(np.stack(drawn), SIZE))
