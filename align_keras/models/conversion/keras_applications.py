"""Weights of `keras.applications`' EfficientNets, B0 to B7."""

import keras
import numpy as np

from align_keras.models.conversion.efficientnet_links import (
    KERAS_APPLICATIONS,
    efficientnet_links,
)
from align_keras.models.conversion.links import load_links
from align_keras.models.efficientnet import VARIANTS
from align_keras.utils.errors import InputError

IMAGENET = "imagenet"
_HEAD = ("top_", "predictions", "normalization")


def load_keras_applications(image_encoder, weights):
    """Loads a tower from Keras's ImageNet weights or from a file of such weights.

    Args:
        image_encoder: `ImageEncoder` of B0 to B7's sizes.
        weights: `"imagenet"`, which Keras downloads; path of a file that
            `save_weights` of such a model wrote; or the Keras model itself.

    Raises:
        InputError: if Keras has no such model, or the weights don't fit.
    """
    reference = weights
    if not isinstance(weights, keras.Model):
        reference = _open(image_encoder, weights)
    tensors = {
        f"{layer.name}/{weight.name}": weight.numpy()
        for layer in reference.layers
        for weight in layer.weights
    }
    load_links(
        efficientnet_links(image_encoder, KERAS_APPLICATIONS),
        tensors,
        f"the Keras model {reference.name}",
        ignored=[name for name in tensors if name.startswith(_HEAD)],
    )
    image_encoder.set_pixel_scaling(*pixel_scaling(reference))


def _open(image_encoder, weights):
    sizes = (image_encoder.width_coefficient, image_encoder.depth_coefficient)
    names = [name for name, variant in VARIANTS.items() if variant[:2] == sizes]
    kind = names[0].removeprefix("efficientnet_").upper() if names else ""
    constructor = getattr(keras.applications, f"EfficientNet{kind}", None)
    if constructor is None or image_encoder.lite:
        raise InputError(
            f"weights {weights!r} exist for EfficientNet B0 to B7, received width "
            f"{sizes[0]}, depth {sizes[1]}, lite {image_encoder.lite}; choose such a "
            "variant."
        )
    reasons = []
    has_classifier = image_encoder.num_classes is not None
    for include_top in (has_classifier, not has_classifier):
        try:
            return constructor(include_top=include_top, weights=str(weights))
        except Exception as error:  # Keras's, h5py's or the download's.
            reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
    raise InputError(
        f"the weights {weights} can't be loaded into keras.applications."
        f"EfficientNet{kind} ({reasons[0][:200]}); check the path and the variant."
    )


def pixel_scaling(reference):
    """Returns the mean and the deviation by which a Keras model scales pixels.

    Measured on black and on white, since Keras divides in one or two steps,
    depending on where the weights come from.

    Args:
        reference: Keras model of `keras.applications`.

    Returns:
        Two lists of three floats, grey levels.
    """
    scaled = keras.Model(reference.input, reference.get_layer("stem_conv_pad").input)
    sides = [side or 32 for side in reference.input_shape[1:3]]
    black_and_white = np.zeros((2, *sides, 3), "float32")
    black_and_white[1] = 255.0
    black, white = scaled.predict(black_and_white, verbose=0)[:, 0, 0].astype("float64")
    deviation = 255.0 / (white - black)
    return (-black * deviation).tolist(), deviation.tolist()
