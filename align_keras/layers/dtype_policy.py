"""Dtype policies of composite layers and models as configuration."""

import keras

from align_keras.utils.errors import InputError


def check_litert_export(model: keras.Model, format: str) -> None:
    """Raises for a LiteRT export of a model with layers that Keras quantized."""
    layers = model._flatten_layers()
    modes = sorted({layer.quantization_mode for layer in layers} - {None})
    if format == "litert" and modes:
        raise InputError(
            "A LiteRT export needs float layers, since LiteRT has no operations for "
            f"those that Keras quantizes. Received: layers quantized to {modes[0]}. "
            "Export the model that they were made from, by `align-keras export litert "
            "--quantize int8`, which quantizes the file."
        )


def dtype_config(layer: keras.layers.Layer) -> dict:
    """Serializes a layer's dtype policy, quantized inner layers included by path.

    `quantize` changes theirs alone: a copy by the layer's would have float kernels.
    """
    policy = layer.dtype_policy
    if not isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        quantized = {
            inner.path: inner.dtype_policy
            for inner in layer._flatten_layers(include_self=False)
            if inner.quantization_mode is not None
        }
        if quantized:
            policy = keras.dtype_policies.DTypePolicyMap(policy.name, quantized)
    return keras.dtype_policies.serialize(policy)


def default_policy(policy: keras.DTypePolicy) -> keras.DTypePolicy:
    """Returns the policy of what a map doesn't name; any other policy as it is."""
    return getattr(policy, "default_policy", policy)
