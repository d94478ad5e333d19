"""Storage of the `trainable` flags of single layers in a model's configuration.

Keras stores the flag in the configuration of each layer. The configurations of the
models in this package contain arguments instead of layers. They therefore list the
layers whose flag was changed after the model was built.
"""

import dataclasses
from collections.abc import Iterator

import keras

CONFIG_KEY = "layer_trainable"


@dataclasses.dataclass(frozen=True)
class TrainableFlags:
    """Flags `trainable` of a model and its layers.

    Attributes:
        model: `trainable` of the model.
        layers: tuple of (str, bool), path and `trainable` of each layer whose flag
            differs from that of its parent layer. A path joins the names of the layers
            from the model to the layer with "/". Layers without weights are left out.
    """

    model: bool
    layers: tuple[tuple[str, bool], ...] = ()

    def config(self) -> dict:
        """Returns the flags as entries of a configuration."""
        return {"trainable": self.model, CONFIG_KEY: dict(self.layers)}


def trainable_flags(model: keras.Model) -> TrainableFlags:
    """Returns the flags of a model and its layers.

    Layers of an encoder inside of the model are left out, since the configuration of
    the encoder lists them.
    """
    layers = tuple(
        (path, layer.trainable)
        for path, layer, parent in _weighted_layers(model)
        if layer.trainable != parent.trainable
    )
    return TrainableFlags(bool(model.trainable), layers)


def set_trainable_flags(model: keras.Model, flags: TrainableFlags) -> None:
    """Freezes and unfreezes layers so that `trainable_flags` returns `flags`.

    Raises:
        InputError: if the model has no layer with one of the paths.
    """
    by_path = dict(flags.layers)
    set_trainable_flag(model, flags.model)
    for path, layer, parent in _weighted_layers(model):
        set_trainable_flag(layer, by_path.pop(path, parent.trainable))


def take_trainable_flags(config: dict) -> TrainableFlags | None:
    """Removes the flags from a configuration and returns them, or None without any."""
    layers = config.pop(CONFIG_KEY, None)
    if layers is None:
        return None
    return TrainableFlags(config.get("trainable", True), tuple(layers.items()))


def _weighted_layers(
    model: keras.Model,
) -> Iterator[tuple[str, keras.layers.Layer, keras.layers.Layer]]:
    """Yields path, layer and parent of each layer with weights, parents first."""
    visited_ids = set()

    def walk(
        parent: keras.layers.Layer, prefix: str
    ) -> Iterator[tuple[str, keras.layers.Layer, keras.layers.Layer]]:
        for layer in parent._flatten_layers(include_self=False, recursive=False):
            if id(layer) in visited_ids or not layer.weights:
                continue
            visited_ids.add(id(layer))
            # An `Encoder` stores the flags of its layers.
            if hasattr(layer, "initial_flags"):
                continue
            yield prefix + layer.name, layer, parent
            yield from walk(layer, f"{prefix}{layer.name}/")

    yield from walk(model, "")


def set_trainable_flag(layer: keras.layers.Layer, value: bool) -> None:
    """Sets `trainable` of a layer without changing that of its inner layers."""
    if layer.trainable == value:
        return
    inner_layers = layer._flatten_layers(include_self=False)
    inner_values = [inner.trainable for inner in inner_layers]
    layer.trainable = value
    # Setting a flag also sets those of the inner layers, so parents come first.
    for inner, inner_value in zip(inner_layers, inner_values, strict=True):
        inner.trainable = inner_value


def unfreeze_parents(model: keras.layers.Layer) -> bool:
    """Sets `trainable` of each layer that contains a trainable layer with weights.

    Returns:
        bool, True if the model or one of its layers is trainable.
    """
    inner_layers = model._flatten_layers(include_self=False, recursive=False)
    is_trainable = [unfreeze_parents(layer) for layer in inner_layers if layer.weights]
    if any(is_trainable):
        set_trainable_flag(model, True)
    return bool(model.trainable)
