"""`trainable` of single layers as a part of a model's configuration.

Keras keeps it in the configuration of each layer. The configurations of our models hold
arguments instead of layers, so they list the layers that were frozen after the model
was built.
"""

import dataclasses
from collections.abc import Iterator

import keras

from align_keras.utils.errors import InputError

CONFIG_KEY = "layer_trainable"


@dataclasses.dataclass(frozen=True)
class TrainableFlags:
    """Layers of a model that learn.

    Attributes:
        model: bool, `trainable` of the model itself.
        layers: tuple of (str, bool), path and `trainable` of each layer whose
            `trainable` differs from that of the layer that holds it. A path is the
            names of the layers from the model down, joined by "/". Layers without
            weights are left out.
    """

    model: bool
    layers: tuple[tuple[str, bool], ...] = ()

    def config(self) -> dict:
        """Returns the entries of a configuration."""
        return {"trainable": self.model, CONFIG_KEY: dict(self.layers)}


def trainable_flags(model: keras.Model) -> TrainableFlags:
    """Returns the layers of a model that learn.

    Layers of an encoder inside of the model are left out, since the configuration of
    the encoder lists them.
    """
    layers = tuple(
        (path, layer.trainable)
        for path, layer, holder in _weighted_layers(model)
        if layer.trainable != holder.trainable
    )
    return TrainableFlags(bool(model.trainable), layers)


def set_trainable_flags(model: keras.Model, flags: TrainableFlags) -> None:
    """Freezes and unfreezes layers, so that `trainable_flags` returns `flags`.

    Raises:
        InputError: if the model has no layer of one of the paths.
    """
    by_path = dict(flags.layers)
    _set_alone(model, flags.model)
    for path, layer, holder in _weighted_layers(model):
        _set_alone(layer, by_path.pop(path, holder.trainable))
    if by_path:
        raise InputError(
            f"{CONFIG_KEY} of {model.name} must name layers of the model. Received: "
            f"{', '.join(map(str, by_path))}. Save the model again."
        )


def take_trainable_flags(config: dict) -> TrainableFlags | None:
    """Removes `CONFIG_KEY` from a configuration, and returns the flags or None."""
    layers = config.pop(CONFIG_KEY, None)
    if layers is None:
        return None
    return TrainableFlags(config.get("trainable", True), tuple(layers.items()))


def _weighted_layers(
    model: keras.Model,
) -> Iterator[tuple[str, keras.layers.Layer, keras.layers.Layer]]:
    """Yields path, layer and holder of each layer with weights, holders first."""
    seen = set()

    def walk(
        holder: keras.layers.Layer, prefix: str
    ) -> Iterator[tuple[str, keras.layers.Layer, keras.layers.Layer]]:
        for layer in holder._flatten_layers(include_self=False, recursive=False):
            if id(layer) in seen or not layer.weights:
                continue
            seen.add(id(layer))
            if hasattr(layer, "initial_flags"):
                continue
            yield prefix + layer.name, layer, holder
            yield from walk(layer, f"{prefix}{layer.name}/")

    yield from walk(model, "")


def _set_alone(layer: keras.layers.Layer, value: bool) -> None:
    """Sets `trainable` of a layer, and keeps that of the layers inside of it."""
    if layer.trainable == value:
        return
    inner_layers = layer._flatten_layers(include_self=False)
    inner_values = [inner.trainable for inner in inner_layers]
    layer.trainable = value
    # Holders come first, since setting one also sets the layers inside of it.
    for inner, inner_value in zip(inner_layers, inner_values, strict=True):
        inner.trainable = inner_value
