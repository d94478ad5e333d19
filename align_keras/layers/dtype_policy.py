"""Serialization of the dtype policies of composite layers and models."""

import keras


def dtype_config(layer: keras.layers.Layer) -> dict:
    """Serializes the dtype policies of a layer and its quantized inner layers.

    `quantize` changes only the policies of the inner layers. If only the policy of the
    outer layer was saved, a loaded layer would have float kernels.
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
    """Returns the default policy of a `DTypePolicyMap`, or another policy unchanged."""
    return getattr(policy, "default_policy", policy)
