"""Table of the named sizes of ALIGN, with their parameters and operations."""

import dataclasses

from align_keras.presets.sizes import (
    PAPER_VOCABULARY_SIZE,
    TRAINED_SIZES,
    PresetSizes,
    preset_names,
    preset_sizes,
)
from align_keras.presets.tower_costs import TowerCost, image_tower_cost, text_tower_cost
from align_keras.presets.variants import image_encoder_arguments, text_encoder_arguments


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
    trained = [_trained_preset(name) for name in TRAINED_SIZES]
    return PresetTable([*trained, *(_preset(name) for name in preset_names())])


def _trained_preset(name: str) -> Preset:
    """Returns the table row of a trained model."""
    # The model has a MiniLM text encoder, and an image encoder with the 1,000 class
    # probabilities of ImageNet.
    sizes = TRAINED_SIZES[name]
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
    sizes = preset_sizes(name)
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
    name: str, sizes: PresetSizes, image: TowerCost, text: TowerCost, trained: bool
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
