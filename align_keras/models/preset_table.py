"""The presets with what they weigh and what they cost."""

import dataclasses

from align_keras.models.sizes import (
    PAPER_VOCABULARY_SIZE,
    image_encoder_arguments,
    preset_config,
    preset_names,
    text_encoder_arguments,
)
from align_keras.models.tower_costs import image_tower_cost, text_tower_cost


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named size of ALIGN.

    Attributes:
        name: str, as `ALIGN.from_preset` takes.
        image_encoder: str, the image tower's variant.
        text_encoder: str, the text tower's variant.
        image_size: int, side of the input in pixels.
        sequence_length: int, tokens a caption.
        projection_dim: int, width of the embeddings.
        image_parameters: int, weights of the image tower, as `count_params`.
        text_parameters: int, weights of the text tower with the paper's
            vocabulary of 100,000 tokens.
        image_flops: int, floating-point operations that embed one picture:
            two for each multiplication of a convolution or matrix product.
        text_flops: int, the same for one caption of `sequence_length` tokens.
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

    @property
    def parameters(self):
        """int, weights of both towers and the temperature."""
        return self.image_parameters + self.text_parameters + 1


class PresetTable(list):
    """List of `Preset` that prints as a table."""

    def __str__(self):
        header = ("preset", "pixels", "width", "parameters", "image", "text")
        rows = [(*header, "GFLOPs/image", "/text")]
        for p in self:
            weights = (p.parameters, p.image_parameters, p.text_parameters)
            rows.append(
                (
                    p.name,
                    str(p.image_size),
                    str(p.projection_dim),
                    *(f"{count / 1e6:.1f}M" for count in weights),
                    *(f"{flops / 1e9:.2f}" for flops in (p.image_flops, p.text_flops)),
                )
            )
        return "\n".join(
            name.ljust(16) + "".join(cell.rjust(13) for cell in cells)
            for name, *cells in rows
        )

    __repr__ = __str__


def presets():
    """Lists the names that `ALIGN.from_preset` builds, with sizes and costs.

    Returns:
        `PresetTable`, a list of `Preset` that prints as a table.

    References:
        Jia et al. 2021, section 6.1: the grid of image and text encoders.

    Example:

    >>> next(p for p in presets() if p.name == "align_b7_base").projection_dim
    640
    """
    return PresetTable(_preset(name) for name in preset_names())


def _preset(name):
    sizes = preset_config(name)
    dim = sizes["projection_dim"]
    image = image_tower_cost(
        **image_encoder_arguments(sizes["image_encoder"], dim),
        image_size=sizes["image_size"],
    )
    text = text_tower_cost(
        **text_encoder_arguments(sizes["text_encoder"]),
        vocabulary_size=PAPER_VOCABULARY_SIZE,
        sequence_length=sizes["sequence_length"],
        projection_dim=dim,
    )
    return Preset(
        name=name,
        **sizes,
        image_parameters=image.parameters,
        text_parameters=text.parameters,
        image_flops=image.flops,
        text_flops=text.flops,
    )
