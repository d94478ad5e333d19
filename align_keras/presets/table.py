"""Table of the named sizes of ALIGN, with their parameters and operations."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from align_keras.presets.tower_costs import TowerCost, image_tower_cost, text_tower_cost
from align_keras.presets.variants import image_encoder_arguments, text_encoder_arguments
from align_keras.utils.arguments import check_choice
from align_keras.utils.shared_data import SHIPPED_MODELS

PAPER_PROJECTION_DIM = 640
PAPER_VOCABULARY_SIZE = 100_000
# Width of the embeddings of the largest model, whose image encoder has no projection
# (Jia et al. 2021, sections 4.1 and 5). The other sizes of the grid are the ablations.
# Their encoders are projected to 640, except B7, which already has this width (section
# 6.1).
_PROJECTION_DIMS = {"align_l2_large": 1376}


@dataclasses.dataclass(frozen=True)
class _PresetSizes:
    """Encoder variants and sizes of a preset."""

    image_encoder: str
    text_encoder: str
    image_size: int
    sequence_length: int
    projection_dim: int


_SMALL = {
    "align_nano": _PresetSizes(
        image_encoder="efficientnet_nano",
        text_encoder="bert_tiny",
        image_size=64,
        sequence_length=16,
        projection_dim=256,
    ),
    "align_micro": _PresetSizes(
        image_encoder="efficientnet_micro",
        text_encoder="bert_mini",
        image_size=96,
        sequence_length=32,
        projection_dim=256,
    ),
}
# Sizes of the trained models that come with the package. A test compares them with the
# config.json of each model.
_TRAINED = {
    "align_small_en": _PresetSizes(
        image_encoder="efficientnet_lite0",
        text_encoder="minilm_l6",
        image_size=144,
        sequence_length=32,
        projection_dim=384,
    )
}
_PAPER_IMAGE_SIZE = 289
_PAPER_SEQUENCE_LENGTH = 64
_PAPER_IMAGE_ENCODERS = ("b1", "b3", "b5", "b7", "l2")
_PAPER_TEXT_ENCODERS = ("mini", "medium", "base", "large")


def preset_names() -> list[str]:
    """Returns the names of the presets that have random weights.

    >>> "align_b7_base" in preset_names()
    True
    """
    paper = [
        f"align_{image}_{text}"
        for image in _PAPER_IMAGE_ENCODERS
        for text in _PAPER_TEXT_ENCODERS
    ]
    return [*_SMALL, *paper]


def preset_config(name: str) -> dict:
    """Returns the encoder variants and sizes of a preset as a dict.

    Raises:
        InputError: if the name is unknown. The message lists all names.
    """
    return dataclasses.asdict(_preset_sizes(name))


def _preset_sizes(name: str) -> _PresetSizes:
    """Returns the encoder variants and sizes of a preset."""
    check_choice("preset", name, preset_names())
    if name in _SMALL:
        return _SMALL[name]
    _, image, text = name.split("_")
    return _PresetSizes(
        image_encoder=f"efficientnet_{image}",
        text_encoder=f"bert_{text}",
        image_size=_PAPER_IMAGE_SIZE,
        sequence_length=_PAPER_SEQUENCE_LENGTH,
        projection_dim=_PROJECTION_DIMS.get(name, PAPER_PROJECTION_DIM),
    )


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named size of ALIGN.

    Attributes:
        image_size: height and width of the input in pixels.
        sequence_length: tokens per caption.
        projection_dim: width of the embeddings.
        image_parameters: parameters of the image encoder, as in `count_params`.
        text_parameters: parameters of the text encoder with the vocabulary of the
            paper (100,000 tokens), or with the vocabulary of the trained weights.
        image_flops: floating-point operations to embed one image.
        text_flops: floating-point operations to embed one caption of
            `sequence_length` tokens.
        trained: True if `ALIGN.from_preset` loads trained weights.
    """

    name: str
    image_encoder: str
    text_encoder: str
    image_size: int
    sequence_length: int
    projection_dim: int
    image_parameters: int
    text_parameters: int
    image_flops: int
    text_flops: int
    trained: bool = False

    @property
    def parameters(self) -> int:
        """Number of parameters of both encoders and the temperature."""
        return self.image_parameters + self.text_parameters + 1


class PresetTable(list):
    """List of `Preset` whose `str` is a table."""

    def __str__(self) -> str:
        header = [
            "preset",
            "weights",
            "pixels",
            "width",
            "parameters",
            "image",
            "text",
            "GFLOPs/image",
            "/text",
        ]
        rows = [header]
        for preset in self:
            rows.append(
                [
                    preset.name,
                    "trained" if preset.trained else "random",
                    str(preset.image_size),
                    str(preset.projection_dim),
                    f"{preset.parameters / 1e6:.1f}M",
                    f"{preset.image_parameters / 1e6:.1f}M",
                    f"{preset.text_parameters / 1e6:.1f}M",
                    f"{preset.image_flops / 1e9:.2f}",
                    f"{preset.text_flops / 1e9:.2f}",
                ]
            )
        lines = []
        for row in rows:
            numbers = "".join(cell.rjust(13) for cell in row[1:])
            lines.append(row[0].ljust(16) + numbers)
        return "\n".join(lines)

    __repr__ = __str__


def presets() -> PresetTable:
    """Returns a table of the models that `ALIGN.from_preset` builds by name.

    The table contains the sizes, parameters and operations of each model. The trained
    model that comes with the package is first.

    References:
        Jia et al. 2021, section 6.1 (grid of image and text encoders).

    Example:

    >>> next(p for p in presets() if p.name == "align_b7_base").projection_dim
    640
    """
    trained = [_trained_preset(name) for name in _TRAINED]
    return PresetTable([*trained, *(_preset(name) for name in preset_names())])


class BuiltinPresets:
    """Descriptor that returns the built-in presets, as on the classes of KerasHub.

    Example:

    >>> from align_keras.models import ALIGN
    >>> "align_small_en" in ALIGN.presets
    True
    """

    def __get__(
        self, instance: object, owner: type | None = None
    ) -> Mapping[str, dict]:
        """Returns a mapping from the name of each preset to its `metadata`."""
        presets = {
            name: {"metadata": {"description": "Trained model of this package."}}
            for name in SHIPPED_MODELS
        }
        for name in preset_names():
            presets[name] = {"metadata": dict(preset_config(name))}
        # Keras searches for layers in attributes that are dicts when it loads weights.
        return types.MappingProxyType(presets)


def with_preset(model_config: Any) -> Any:
    """Returns a copy of a `ModelConfig` with the variants and sizes of its preset."""
    if model_config.preset is None:
        return model_config
    sizes = preset_config(model_config.preset)
    image_encoder = model_config.image_encoder.model_copy(
        update={
            "variant": sizes["image_encoder"],
            "image_size": sizes["image_size"],
        }
    )
    text_encoder = model_config.text_encoder.model_copy(
        update={
            "variant": sizes["text_encoder"],
            "sequence_length": sizes["sequence_length"],
        }
    )
    return model_config.model_copy(
        update={
            "image_encoder": image_encoder,
            "text_encoder": text_encoder,
            "projection_dim": sizes["projection_dim"],
        }
    )


def _trained_preset(name: str) -> Preset:
    """Returns the table row of a trained model."""
    # The model has a MiniLM text encoder, and an image encoder with the 1,000 class
    # probabilities of ImageNet.
    sizes = _TRAINED[name]
    image = image_tower_cost(
        **image_encoder_arguments(sizes.image_encoder, sizes.projection_dim),
        image_size=sizes.image_size,
        num_classes=1000,
    )
    text = text_tower_cost(
        **text_encoder_arguments(sizes.text_encoder),
        vocabulary_size=30_522,
        sequence_length=sizes.sequence_length,
        max_sequence_length=512,
        projection_dim=None,
        pooling="mean",
    )
    return _with_costs(name, sizes, image, text, trained=True)


def _preset(name: str) -> Preset:
    """Returns the table row of a model with random weights and the paper's sizes."""
    sizes = _preset_sizes(name)
    image = image_tower_cost(
        **image_encoder_arguments(sizes.image_encoder, sizes.projection_dim),
        image_size=sizes.image_size,
    )
    text = text_tower_cost(
        **text_encoder_arguments(sizes.text_encoder),
        vocabulary_size=PAPER_VOCABULARY_SIZE,
        sequence_length=sizes.sequence_length,
        projection_dim=sizes.projection_dim,
    )
    return _with_costs(name, sizes, image, text, trained=False)


def _with_costs(
    name: str, sizes: _PresetSizes, image: TowerCost, text: TowerCost, trained: bool
) -> Preset:
    return Preset(
        name=name,
        image_encoder=sizes.image_encoder,
        text_encoder=sizes.text_encoder,
        image_size=sizes.image_size,
        sequence_length=sizes.sequence_length,
        projection_dim=sizes.projection_dim,
        image_parameters=image.parameters,
        text_parameters=text.parameters,
        image_flops=image.flops,
        text_flops=text.flops,
        trained=trained,
    )
