"""Named sizes of ALIGN: the paper's grid and small ones, with what they cost."""

import dataclasses
from typing import Any

from align_keras.models.tower_costs import image_tower_cost, text_tower_cost
from align_keras.models.variants import image_encoder_arguments, text_encoder_arguments
from align_keras.utils.errors import InputError

PAPER_PROJECTION_DIM = 640
PAPER_VOCABULARY_SIZE = 100_000
# The largest model's image encoder has no projection (Jia et al. 2021, sections 4.1
# and 5); in the ablations, the rest of the grid, all are projected to 640 but B7,
# which is as wide (section 6.1).
_PROJECTION_DIMS = {"align_l2_large": 1376}
_SIZES = (
    *("image_encoder", "text_encoder", "image_size", "sequence_length"),
    "projection_dim",
)
_SMALL = {
    "align_nano": ("efficientnet_nano", "bert_tiny", 64, 16, 256),
    "align_micro": ("efficientnet_micro", "bert_mini", 96, 32, 256),
}
# Sizes of the trained models that come with the package, as their config.json has them.
_TRAINED = {
    "align_small_en": {
        "image_encoder": "efficientnet_lite2",
        "text_encoder": "minilm_l6",
        "image_size": 160,
        "sequence_length": 32,
        "projection_dim": 384,
    }
}
_PAPER_IMAGE_SIZE = 289
_PAPER_IMAGE_ENCODERS = ("b1", "b3", "b5", "b7", "l2")
_PAPER_TEXT_ENCODERS = ("mini", "medium", "base", "large")


def preset_names() -> list[str]:
    """Returns the names that `ALIGN.from_preset` builds with random weights.

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
    """Returns the variants and sizes of a preset; an error lists the known names."""
    if name not in preset_names():
        raise InputError(
            f"unknown preset {name!r}; known are {', '.join(preset_names())}, or "
            "give the folder of a run."
        )
    sizes = _SMALL.get(name)
    if sizes is None:
        _, image, text = name.split("_")
        dim = _PROJECTION_DIMS.get(name, PAPER_PROJECTION_DIM)
        sizes = (f"efficientnet_{image}", f"bert_{text}", _PAPER_IMAGE_SIZE, 64, dim)
    return dict(zip(_SIZES, sizes, strict=True))


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named size of ALIGN.

    Attributes:
        image_size: int, side of the input in pixels.
        sequence_length: int, tokens a caption.
        projection_dim: int, width of the embeddings.
        image_parameters: int, weights of the image tower, as `count_params`.
        text_parameters: int, of the text tower with the paper's vocabulary of 100,000,
            or with the vocabulary of the trained weights.
        image_flops: int, floating-point operations that embed one image.
        text_flops: int, the same for one caption of `sequence_length` tokens.
        trained: bool, True if `ALIGN.from_preset` loads trained weights.
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
        """Weights of both towers and the temperature."""
        return self.image_parameters + self.text_parameters + 1


class PresetTable(list):
    """List of `Preset` that prints as a table."""

    def __str__(self):
        header = ("preset", "weights", "pixels", "width", "parameters", "image", "text")
        rows = [(*header, "GFLOPs/image", "/text")]
        for p in self:
            weights = (p.parameters, p.image_parameters, p.text_parameters)
            rows.append(
                (
                    p.name,
                    "trained" if p.trained else "random",
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


def presets() -> PresetTable:
    """Lists what `ALIGN.from_preset` builds by name, with sizes and costs, as a table.

    The trained model that comes with the package is the first.

    References:
        Jia et al. 2021, section 6.1: the grid of image and text encoders.

    Example:

    >>> next(p for p in presets() if p.name == "align_b7_base").projection_dim
    640
    """
    trained = [_trained_preset(name) for name in _TRAINED]
    return PresetTable([*trained, *(_preset(name) for name in preset_names())])


def with_preset(model_config: Any) -> Any:
    """Returns a `ModelConfig` with its preset's variants and sizes."""
    if model_config.preset is None:
        return model_config
    sizes = preset_config(model_config.preset)
    return dataclasses.replace(
        model_config,
        image_encoder=dataclasses.replace(
            model_config.image_encoder,
            variant=sizes["image_encoder"],
            image_size=sizes["image_size"],
        ),
        text_encoder=dataclasses.replace(
            model_config.text_encoder,
            variant=sizes["text_encoder"],
            sequence_length=sizes["sequence_length"],
        ),
        projection_dim=sizes["projection_dim"],
    )


def _trained_preset(name):
    """Returns the row of a trained model: MiniLM with the classes of ImageNet."""
    sizes = _TRAINED[name]
    image = image_tower_cost(
        **image_encoder_arguments(sizes["image_encoder"], sizes["projection_dim"]),
        image_size=sizes["image_size"],
        num_classes=1000,
    )
    text = text_tower_cost(
        **text_encoder_arguments(sizes["text_encoder"]),
        vocabulary_size=30_522,
        sequence_length=sizes["sequence_length"],
        max_sequence_length=512,
        projection_dim=None,
        pooling="mean",
    )
    return Preset(
        name=name,
        **sizes,
        image_parameters=image.parameters,
        text_parameters=text.parameters,
        image_flops=image.flops,
        text_flops=text.flops,
        trained=True,
    )


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
