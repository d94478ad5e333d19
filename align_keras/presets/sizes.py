"""Named sizes of ALIGN."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

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
class PresetSizes:
    """Encoder variants and sizes of a preset."""

    image_encoder: str
    text_encoder: str
    image_size: int
    sequence_length: int
    projection_dim: int


_SMALL = {
    "align_nano": PresetSizes(
        image_encoder="efficientnet_nano",
        text_encoder="bert_tiny",
        image_size=64,
        sequence_length=16,
        projection_dim=256,
    ),
    "align_micro": PresetSizes(
        image_encoder="efficientnet_micro",
        text_encoder="bert_mini",
        image_size=96,
        sequence_length=32,
        projection_dim=256,
    ),
}
# Sizes of the trained models that come with the package. A test compares them with the
# config.json of each model.
TRAINED_SIZES = {
    "align_small_en": PresetSizes(
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
    return dataclasses.asdict(preset_sizes(name))


def preset_sizes(name: str) -> PresetSizes:
    """Returns the encoder variants and sizes of a preset."""
    check_choice("preset", name, preset_names())
    if name in _SMALL:
        return _SMALL[name]
    _, image, text = name.split("_")
    return PresetSizes(
        image_encoder=f"efficientnet_{image}",
        text_encoder=f"bert_{text}",
        image_size=_PAPER_IMAGE_SIZE,
        sequence_length=_PAPER_SEQUENCE_LENGTH,
        projection_dim=_PROJECTION_DIMS.get(name, PAPER_PROJECTION_DIM),
    )


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
