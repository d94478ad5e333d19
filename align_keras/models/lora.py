"""Low-rank adaptation (LoRA) of the kernels of a model.

Keras adds the factors to a layer (`layer.enable_lora`). This module chooses the layers,
merges the factors into the kernels, and stores them in files of KerasHub's layout.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import h5py
import keras
import numpy as np
import tensorflow as tf

from align_keras.layers.temperature import Temperature
from align_keras.models.trainable_layers import set_trainable_flag, unfreeze_parents
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path, refuse_url

LORA_SUFFIX = ".lora.h5"
# Upper bound of the rank. A larger number is probably a mistake.
MAX_LORA_RANK = 4096
_FACTORS = ("lora_kernel_a", "lora_kernel_b")
_BASE_KEY = "base_sha256"


# === Layers ===


def adapted_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers of a model that have factors."""
    return [
        layer
        for layer in model._flatten_layers()
        if getattr(layer, "lora_enabled", False)
    ]


def has_factors(model: keras.layers.Layer) -> bool:
    """Returns True if a layer of a model has factors, also while they are merged."""
    return any(hasattr(layer, _FACTORS[0]) for layer in model._flatten_layers())


def layers_named(
    model: keras.layers.Layer, names: Iterable[str]
) -> list[keras.layers.Layer]:
    """Returns the layers of a model that have one of the names and can have factors."""
    names = set(names)
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if layer.name in names
        and hasattr(layer, "enable_lora")
        and hasattr(layer, "_kernel")
    ]


def enable_lora(
    model: keras.layers.Layer, rank: int, layer_names: Iterable[str]
) -> None:
    """Freezes a model and adds trainable factors to some of its layers.

    Factors that the model has already are merged into its kernels before.

    Args:
        model: Keras model.
        rank: ≥ 1, rank of the factors. Keras scales their product by 1.
        layer_names: names of the layers to adapt.

    Raises:
        InputError: if the model has no layer with one of the names, or `rank` is out
            of range.
    """
    check_number("rank", rank, 1, MAX_LORA_RANK, whole=True)
    names = list(layer_names)
    layers = layers_named(model, names)
    if not layers:
        raise InputError(
            "target_layer_names must contain names of layers with a kernel. Received: "
            f"{', '.join(names) or 'no names'}. Leave it out to adapt the default "
            "layers."
        )
    merge_lora(model)
    model.trainable = False
    add_factors(model, [(layer, rank) for layer in layers])


def add_factors(
    model: keras.layers.Layer, ranks: Iterable[tuple[keras.layers.Layer, int]]
) -> None:
    """Adds factors to layers of a model, and freezes the other weights of the layers.

    Args:
        model: Keras model that contains the layers.
        ranks: pairs of a layer and its rank.
    """
    ranks = list(ranks)
    for layer, _ in ranks:
        layer.trainable = True
    # Keras sets the flags of all inner variables with the flag of a layer, so the
    # kernels are frozen afterwards.
    unfreeze_parents(model)
    for layer, rank in ranks:
        layer.enable_lora(rank)
        for name, variable in direct_variables(layer).items():
            variable.trainable = name in _FACTORS


def direct_variables(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Returns the variables of a layer by name, without those of inner layers."""
    variables = layer._trainable_variables + layer._non_trainable_variables
    return {variable.name: variable for variable in variables}


# === Merging ===


def merged_kernel(layer: keras.layers.Layer) -> tf.Tensor:
    """Returns W + alpha/r · A·B in the dtype of the kernel W.

    `layer.kernel` has the compute dtype, which may be less precise.
    """
    product = keras.ops.matmul(layer.lora_kernel_a, layer.lora_kernel_b)
    kernel = layer._kernel
    scaled = layer.lora_alpha / layer.lora_rank * product
    return kernel + keras.ops.cast(scaled, kernel.dtype)


def merged_weights(model: keras.Model) -> list[keras.Variable | tf.Tensor]:
    """Returns the weights of a model, with the factors merged into the kernels.

    The factors of quantized layers stay separate.
    """
    layers = _adapted_float_layers(model)
    kernels = {id(layer._kernel): merged_kernel(layer) for layer in layers}
    factors = {id(getattr(layer, name)) for layer in layers for name in _FACTORS}
    return [
        kernels.get(id(variable), variable)
        for variable in model.weights
        if id(variable) not in factors
    ]


def merge_lora(model: keras.layers.Layer) -> None:
    """Merges the factors into the kernels, and removes the factors from the layers."""
    for layer in adapted_layers(model):
        if layer.quantization_mode is None:
            layer._kernel.assign(merged_kernel(layer))
            _remove_factors(layer)
            continue
        # Keras merges the factors of a quantized layer when it saves the layer.
        store: dict[str, np.ndarray] = {}
        layer.save_own_variables(store)
        values = {name: np.asarray(value) for name, value in store.items()}
        _remove_factors(layer)
        layer.load_own_variables(values)


def _adapted_float_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers that have factors and are not quantized."""
    return [layer for layer in adapted_layers(model) if layer.quantization_mode is None]


def _remove_factors(layer: keras.layers.Layer) -> None:
    for name in _FACTORS:
        layer._untrack_variable(getattr(layer, name))
        # `del` of a Keras layer also collects garbage, which takes 0.2 s per variable.
        super(keras.layers.Layer, layer).__delattr__(name)
    layer.lora_enabled = False
    layer.lora_rank = None
    layer.lora_alpha = None
    # Sets the flags of the kernel and the bias.
    layer.trainable = layer.trainable


@contextlib.contextmanager
def merged_while_saving(model: keras.Model) -> Iterator[None]:
    """Merges the factors until the block ends.

    Keras also merges when it saves, but in the compute dtype. For a policy such as
    `mixed_bfloat16`, this would round the kernels.
    """
    layers = _adapted_float_layers(model)
    kernels = [layer._kernel.numpy() for layer in layers]
    try:
        for layer in layers:
            layer._kernel.assign(merged_kernel(layer))
            layer.lora_enabled = False
        yield
    finally:
        for layer, kernel in zip(layers, kernels, strict=True):
            layer._kernel.assign(kernel)
            layer.lora_enabled = True


# === Files ===


@dataclasses.dataclass(frozen=True)
class _LoraFile:
    """Content of a file of LoRA weights.

    Attributes:
        factors: dict from the index of a layer to its factors A and B.
        trained: dict from the index of a layer to its other trained weights, by name.
        base: SHA-256 of the weights that were not trained, or None if the file doesn't
            contain it.
    """

    factors: Mapping[int, tuple[np.ndarray, np.ndarray]]
    trained: Mapping[int, Mapping[str, np.ndarray]]
    base: str | None


def save_lora_weights(backbone: keras.Model, path: str | os.PathLike) -> None:
    """Writes the factors and all other trained weights of a backbone to a file."""
    refuse_url(path, "filepath")
    path = _checked_name(path)
    layers = _weighted_layers(backbone)
    adapted = {
        number: layer
        for number, layer in enumerate(layers)
        if getattr(layer, "lora_enabled", False)
    }
    if not adapted:
        raise InputError(
            "The model must have LoRA factors. Received: a model without factors. Call "
            "enable_lora or set_training first."
        )
    trained = _trained_variables(layers)
    names = {number: list(variables) for number, variables in trained.items()}
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        # KerasHub's `load_lora_weights` reads the group `lora`.
        file["lora/vars/rank"] = max(layer.lora_rank for layer in adapted.values())
        for number, layer in adapted.items():
            for name in _FACTORS:
                value = getattr(layer, name).numpy()
                file[f"lora/{number}/vars/{name}"] = value
        for number, variables in trained.items():
            for name, variable in variables.items():
                value = variable.numpy().astype("float32")
                file[f"trained/{number}/vars/{name}"] = value
        file.attrs[_BASE_KEY] = _base_digest(layers, names)


def load_lora_weights(backbone: keras.Model, path: str | os.PathLike) -> None:
    """Loads a file of `save_lora_weights` onto the model that was adapted."""
    path = _checked_name(path)
    content = _read(path)
    layers = _weighted_layers(backbone)
    _check_fit(content, layers, path)
    names = {number: list(values) for number, values in content.trained.items()}
    if content.base not in (None, _base_digest(layers, names)):
        raise InputError(
            "The model must be the one from which the LoRA weights were trained. "
            f"Received: {path} and a model with other weights. Open the starting "
            "model, without its later training."
        )
    ranks = {number: a.shape[-1] for number, (a, _) in content.factors.items()}
    enabled = {
        number: layer.lora_rank
        for number, layer in enumerate(layers)
        if getattr(layer, "lora_enabled", False)
    }
    if not enabled:
        # The temperature stays constant if the model doesn't learn it.
        learned = [
            layers[number]
            for number in content.trained
            if layers[number].trainable or not isinstance(layers[number], Temperature)
        ]
        backbone.trainable = False
        for layer in learned:
            set_trainable_flag(layer, True)
        add_factors(
            backbone, [(layers[number], rank) for number, rank in ranks.items()]
        )
    elif enabled != ranks:
        raise InputError(
            "The LoRA layers and ranks of the model must be those of the file. "
            f"Received: {_describe(enabled, layers)} in the model and "
            f"{_describe(ranks, layers)} in {path}. Load the file into a model without "
            "LoRA."
        )
    for number, factors in content.factors.items():
        for name, value in zip(_FACTORS, factors, strict=True):
            getattr(layers[number], name).assign(value)
    for number, values in content.trained.items():
        variables = direct_variables(layers[number])
        for name, value in values.items():
            variables[name].assign(value)
            if layers[number].trainable:
                variables[name].trainable = name not in _STATISTICS


# Weights of batch normalization that training changes without gradients.
_STATISTICS = ("moving_mean", "moving_variance")


def _checked_name(path: str | os.PathLike) -> pathlib.Path:
    if not str(path).endswith(LORA_SUFFIX):
        raise InputError(
            f"filepath must end in {LORA_SUFFIX}. Received: filepath={path}. Change "
            "the name."
        )
    return pathlib.Path(path)


def _weighted_layers(backbone: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers with weights. KerasHub identifies layers by their index."""
    layers = backbone._flatten_layers(include_self=False)
    return [layer for layer in layers if layer.weights]


def _trained_variables(
    layers: list[keras.layers.Layer],
) -> dict[int, dict[str, keras.Variable]]:
    """Returns the trained weights that aren't factors, by the index of their layer."""
    # The moving statistics of trained layers and the temperature are included,
    # because a run may have another constant temperature than its starting model.
    trained = {}
    for number, layer in enumerate(layers):
        if not layer.trainable and not isinstance(layer, Temperature):
            continue
        is_adapted = getattr(layer, "lora_enabled", False)
        variables = {
            name: variable
            for name, variable in direct_variables(layer).items()
            if name not in _FACTORS and (variable.trainable or not is_adapted)
        }
        if variables:
            trained[number] = variables
    return trained


def _base_digest(
    layers: list[keras.layers.Layer], trained: Mapping[int, Iterable[str]]
) -> str:
    """Returns the SHA-256 of the weights without factors and trained weights."""
    digest = hashlib.sha256()
    for number, layer in enumerate(layers):
        left_out = {*_FACTORS, *trained.get(number, ())}
        for name, variable in sorted(direct_variables(layer).items()):
            if name not in left_out:
                value = np.ascontiguousarray(variable.numpy())
                digest.update(f"{number} {name} {value.shape}".encode())
                digest.update(value.tobytes())
    return digest.hexdigest()


def _read(path: pathlib.Path) -> _LoraFile:
    factors = {}
    trained = {}
    try:
        with h5py.File(path, "r") as file:
            for number in filter(_is_index, file["lora"]):
                group = file[f"lora/{number}/vars"]
                a, b = (np.asarray(group[name]) for name in _FACTORS)
                factors[int(number)] = (a, b)
            for number in file.get("trained", ()):
                group = file[f"trained/{number}/vars"]
                trained[int(number)] = {name: np.asarray(group[name]) for name in group}
            base = file.attrs.get(_BASE_KEY)
    except (OSError, LookupError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"{path} is not a file of LoRA weights, or is damaged ({reason}). Save the "
            "weights again with save_lora_weights."
        ) from None
    return _LoraFile(factors, trained, base)


def _is_index(name: str) -> bool:
    return re.fullmatch(r"\d+", name) is not None


def _check_fit(
    content: _LoraFile, layers: list[keras.layers.Layer], path: pathlib.Path
) -> None:
    """Raises unless the layers have the shapes of the weights in a file."""
    for number, (a, b) in content.factors.items():
        layer = layers[number] if number < len(layers) else None
        kernel = getattr(layer, "_kernel", None)
        expected = (*a.shape[:-1], b.shape[-1])
        if kernel is None or tuple(kernel.shape) != expected:
            _refuse_shape(path, number, expected, layer)
    for number, values in content.trained.items():
        layer = layers[number] if number < len(layers) else None
        variables = direct_variables(layer) if layer is not None else {}
        for name, value in values.items():
            if name not in variables or tuple(variables[name].shape) != value.shape:
                _refuse_shape(path, number, value.shape, layer)


def _refuse_shape(
    path: pathlib.Path, number: int, shape: tuple, layer: keras.layers.Layer | None
) -> None:
    name = "no such layer" if layer is None else layer.path
    raise InputError(
        f"The model must have the architecture of the LoRA weights in {path}. "
        f"Received: {name} for the weights {shape} of layer {number}. Open the model "
        "from which the weights were trained."
    )


def _describe(ranks: Mapping[int, int], layers: list[keras.layers.Layer]) -> str:
    """Returns the number, the names and the ranks of adapted layers."""
    names = ", ".join(sorted({layers[number].name for number in ranks}))
    values = ", ".join(str(rank) for rank in sorted(set(ranks.values())))
    return f"{len(ranks)} layers ({names}) of rank {values}"
