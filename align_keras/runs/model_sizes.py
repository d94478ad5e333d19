"""From a model's configuration to its encoders' sizes, without TensorFlow."""

import dataclasses

from align_keras.models.preset_table import preset_config
from align_keras.models.variants import image_encoder_arguments, text_encoder_arguments


def with_preset(model_config):
    """Returns the configuration with its preset's variants and sizes."""
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


def image_encoder_sizes(model_config):
    """Returns `ImageEncoder`'s coefficients, projection and classes."""
    image = model_config.image_encoder
    return image_encoder_arguments(
        image.variant,
        model_config.projection_dim,
        image.width_coefficient,
        image.depth_coefficient,
        image.num_classes,
    )


def text_encoder_sizes(model_config):
    """Returns `TextEncoder`'s layers, widths, heads and projection."""
    text = model_config.text_encoder
    sizes = text_encoder_arguments(text.variant)
    given = {name: getattr(text, name, None) for name in sizes}
    sizes.update({name: size for name, size in given.items() if size is not None})
    projection_dim = model_config.projection_dim if text.projection else None
    return {**sizes, "projection_dim": projection_dim}
