"""Dtype policies of composite layers and models as configuration."""

import keras


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
