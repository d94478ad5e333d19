"""Dtype policies of composite layers and models in their configuration."""

import keras


def dtype_config(layer: keras.layers.Layer) -> dict:
    """Serializes the dtype policy of a layer with those of its quantized inner layers.

    `quantize` changes the policies of the inner layers only. A copy with the policy of
    the outer layer would have float kernels.
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
    """Returns the default policy of a `DTypePolicyMap`, or any other policy itself."""
    return getattr(policy, "default_policy", policy)
