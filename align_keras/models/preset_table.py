"""The presets with what they weigh and what they cost."""

import dataclasses

from align_keras.models.efficientnet import VARIANTS, scaled_stages, stem_filters
from align_keras.models.sizes import (
    PAPER_VOCABULARY_SIZE,
    image_encoder_arguments,
    preset_config,
    preset_names,
    text_encoder_arguments,
)

_SQUEEZE_RATIO = 0.25
_NORM_WEIGHTS = 4  # Gamma, beta, moving mean, moving variance.
_SEGMENTS = 2


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
    dim, length = sizes["projection_dim"], sizes["sequence_length"]
    image_parameters, image_flops = image_encoder_cost(
        sizes["image_encoder"], sizes["image_size"], dim
    )
    text_parameters, text_flops = text_encoder_cost(sizes["text_encoder"], length, dim)
    return Preset(
        name=name,
        **sizes,
        image_parameters=image_parameters,
        text_parameters=text_parameters,
        image_flops=image_flops,
        text_flops=text_flops,
    )


def image_encoder_cost(variant, image_size, projection_dim):
    """Returns the weights of an image encoder and the operations for a picture."""
    width, depth, _, lite = VARIANTS[variant]
    side, channels = image_size // 2, stem_filters(width, lite)
    parameters, flops = _conv(3, 3, channels, side)
    for stage in scaled_stages(width, depth, lite):
        for repeat in range(stage.repeats):
            strides = stage.strides if repeat == 0 else 1
            block = _block(stage, channels, strides, side, lite)
            parameters, flops = parameters + block[0], flops + block[1]
            side, channels = side // strides, stage.filters
    if image_encoder_arguments(variant, projection_dim)["projection_dim"] is not None:
        parameters += (channels + 1) * projection_dim
        flops += 2 * channels * projection_dim
    return parameters, flops


def _block(stage, channels, strides, side, lite):
    inner, kernel = channels * stage.expand_ratio, stage.kernel_size
    parts = [_conv(1, channels, inner, side)] if stage.expand_ratio != 1 else []
    side = side // strides
    parts.append(_conv(kernel, 1, inner, side))
    parts.append(_conv(1, inner, stage.filters, side))
    if not lite:
        squeezed = max(1, int(channels * _SQUEEZE_RATIO))
        weights = 2 * inner * squeezed
        parts.append((weights + inner + squeezed, 2 * weights))
    return tuple(sum(column) for column in zip(*parts, strict=True))


def _conv(kernel, channels_in, channels_out, side):
    """A convolution with its normalisation; the latter's operations don't count."""
    weights = kernel * kernel * channels_in * channels_out
    return weights + _NORM_WEIGHTS * channels_out, 2 * weights * side * side


def text_encoder_cost(variant, sequence_length, projection_dim):
    """Returns the weights of a text encoder and the operations for a caption."""
    sizes = text_encoder_arguments(variant)
    layers, width = sizes["num_layers"], sizes["hidden_dim"]
    inner, length = sizes["intermediate_dim"], sequence_length
    norm = 2 * width
    attention = 4 * (width + 1) * width + norm
    feed_forward = (width + 1) * inner + (inner + 1) * width + norm
    embeddings = (PAPER_VOCABULARY_SIZE + length + _SEGMENTS) * width + norm
    pooler = (width + 1) * width
    projection = (width + 1) * projection_dim
    products = length * (4 * width * width + 2 * length * width + 2 * width * inner)
    return (
        embeddings + layers * (attention + feed_forward) + pooler + projection,
        2 * (layers * products + width * projection_dim),
    )
