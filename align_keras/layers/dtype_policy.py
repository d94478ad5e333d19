"""Dtype policies of composite layers and models as configuration."""

import keras


def dtype_config(layer: keras.layers.Layer) -> dict:
    """Serializes a layer's dtype policy, quantized inner layers included.

    `quantize` changes the policy of the inner layers that it reaches and not that
    of the layer around them. Without the map by path that stands here, the copy
    would have float kernels where the saved weights are integers. (KerasHub's
    `Backbone.get_config` does the same, but leaves the default policy open.)
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
