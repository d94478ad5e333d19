"""Models whose embeddings have fewer components."""

import keras

from align_keras.models.align import ALIGN
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError


def truncate_model(model: ALIGN, dimensions: int) -> ALIGN:
    """Returns a model with the first components of the embeddings of another model.

    The projections of the encoders have fewer columns, so the model computes and stores
    no components that are removed. The embeddings have unit length.

    Args:
        model: `ALIGN`, whose encoders have projections.
        dimensions: in [1, d], number of components.

    Raises:
        InputError: if `dimensions` is out of range, or an encoder has no projection.

    References:
        Kusupati et al. 2022, "Matryoshka Representation Learning".

    Example:

    >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
    >>> truncate_model(model, 16).image_encoder.projection_dim
    16
    """
    width = model.image_encoder.output_shape[-1]
    remedy = "Leave `dimensions` out for all components."
    check_number("dimensions", dimensions, 1, width, True, remedy)
    backbone = model.backbone
    truncated = ALIGN.from_encoders(
        _truncated_encoder("image_encoder", model.image_encoder, dimensions),
        _truncated_encoder("text_encoder", model.text_encoder, dimensions),
        vocabulary=model.vocabulary,
        normalization=model.normalization,
        initial_temperature=float(model.temperature),
        learn_temperature=backbone.learn_temperature,
        dtype=backbone.dtype_policy,
        name=model.name,
    )
    truncated.preprocessor = model.preprocessor
    return truncated


def _truncated_encoder(name: str, encoder: keras.Model, dimensions: int) -> keras.Model:
    """Returns a copy of an encoder whose projection has fewer columns."""
    if encoder.projection_dim is None:
        raise InputError(
            f"The {name} must have a projection to truncate its embeddings. Received: "
            "projection_dim=None. Truncate the embeddings with "
            "align_keras.load_model(…, dimensions=…)."
        )
    config = {**encoder.get_config(), "projection_dim": dimensions}
    truncated = type(encoder).from_config(config)
    projection = {id(weight) for weight in encoder.get_layer("projection").weights}
    for target, weight in zip(truncated.weights, encoder.weights, strict=True):
        values = weight.numpy()
        # The columns of the kernel and the bias are the components.
        target.assign(values[..., :dimensions] if id(weight) in projection else values)
    return truncated
