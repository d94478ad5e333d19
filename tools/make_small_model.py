"""Writes `align_small_en`, the model that comes with the package, of a trained run.

After `align-keras train --experiment align_small_en --model_dir RUN`, `python -m
tools.make_small_model --run RUN --to saved_models/align_small_en` needs the extra
`litert`. Batch normalization is folded, the towers become LiteRT files of 8 bits, and
the preset takes its large weights from these: a folder so serves phones, search without
TensorFlow and Keras at the size of one of them. Keras then computes in floats with the
rounded weights: embeddings are those of the towers but for the rounding of activations.
They are judged by the stamps.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from safetensors.numpy import save

from align_keras.config import load_config
from align_keras.data import read_retrieval_set
from align_keras.datasets import build_corpus
from align_keras.evaluation import (
    flatten_captions,
    retrieval_metrics,
    shared_positives,
)
from align_keras.export.litert import image_flatbuffer, text_flatbuffer
from align_keras.export.litert_file import LiteRTTower
from align_keras.images import preprocess_image_bytes
from align_keras.models import ALIGN
from align_keras.models.conversion.litert_weights import (
    REST_FILE,
    TABLE_FILE,
    TOWER_FILES,
    float_weights,
    read_tensors,
    to_keras,
)
from align_keras.models.preset_io import WEIGHTS_FILE, save_preset_config
from align_keras.runs.run import open_run
from align_keras.runs.run_corpora import prepare_corpus
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

CALIBRATION_IMAGES = 200
LICENSE = (
    "Apache-2.0. The weights derive from EfficientNet-Lite2 (Google, Apache-2.0) and "
    "all-MiniLM-L6-v2 (Apache-2.0), trained further on Open Clip Art (public domain), "
    "Noto Emoji (Apache-2.0) and Twemoji graphics (CC BY 4.0, Twitter, Inc.)."
)
# Smaller ones are kept as they are.
_LEAST_SIZE = 256
# Of rounding to 8 bits by channel it is about 0.01, of two other kernels 1.4.
_LARGEST_ERROR = 0.1
# LiteRT moves the halving of the class logits into the classifier.
_FACTORS = (1.0, 2.0)
# Layer of a convolution → its batch normalization.
_NORMALIZED = {
    name: f"{name}_norm" for name in ("stem", "head", "expand", "depthwise", "project")
}


def fold_batch_norms(image_encoder: keras.Model) -> None:
    """Moves batch normalizations into the convolutions before them, as LiteRT does.

    The encoder's outputs stay as they are. What is left of a normalization is its
    shift; it can't be trained on batch statistics any more.
    """
    layers: dict[str, Any] = {layer.name: layer for layer in image_encoder.layers}
    pairs: list[tuple[Any, Any]] = [
        (layers.get(a), layers.get(b)) for a, b in _NORMALIZED.items()
    ]
    for block in image_encoder.blocks:
        for a, b in _NORMALIZED.items():
            pairs.append((getattr(block, a, None), getattr(block, b, None)))
    for conv, norm in pairs:
        if conv is None:
            continue
        gamma, beta, mean, variance = (
            np.asarray(weight, "float64")
            for weight in (
                norm.gamma,
                norm.beta,
                norm.moving_mean,
                norm.moving_variance,
            )
        )
        scale = gamma / np.sqrt(variance + norm.epsilon)
        kernel = conv.kernel
        # A depthwise kernel is (height, width, channels, 1).
        by_channel = scale if kernel.shape[-1] == len(scale) else scale[:, None]
        kernel.assign(np.asarray(kernel) * by_channel)
        norm.gamma.assign(np.ones_like(scale))
        norm.beta.assign(beta - mean * scale)
        norm.moving_mean.assign(np.zeros_like(mean))
        norm.moving_variance.assign(np.full_like(variance, 1 - norm.epsilon))


def save_beside_towers(model: keras.Model, directory: pathlib.Path) -> None:
    """Saves a model beside its towers of 8 bits, without the weights that they hold.

    Raises:
        InputError: if most of the weights aren't found in the towers.
    """
    tensors = {name: read_tensors(directory / name) for name in TOWER_FILES}
    table: dict[str, Any] = {}
    rest = {}
    for variable in float_weights(model):
        value = np.asarray(variable, "float32")
        place = _find(value, tensors) if value.size >= _LEAST_SIZE else None
        if place is None:
            rest[variable.path] = np.ascontiguousarray(value)
        else:
            table[variable.path] = place
    found = sum(np.prod(v.shape) for v in float_weights(model) if v.path in table)
    if found < 0.5 * model.count_params():
        raise InputError(
            f"{directory} must hold the model's towers of 8 bits, received others: "
            f"{found:,.0f} of {model.count_params():,} weights are in them; export "
            "this model by quantize int8, its batch norms folded."
        )
    (directory / REST_FILE).write_bytes(save(rest))
    with atomic_write(directory / TABLE_FILE) as file:
        json.dump(table, file, indent=1)
    model.save_to_preset(directory)
    (directory / WEIGHTS_FILE).unlink()
    save_preset_config(model, directory, [*TOWER_FILES, TABLE_FILE, REST_FILE])


def _find(value: np.ndarray, tensors: Mapping) -> list | None:
    """Returns the file, the number and the factor of a kernel's rounded tensor."""
    places = [
        (float(np.linalg.norm(factor * to_keras(tensor, value.shape) - value)), place)
        for file, known in tensors.items()
        for number, tensor in known.items()
        if tensor.size == value.size
        for factor, place in ((factor, [file, number, factor]) for factor in _FACTORS)
    ]
    error, place = min(places, default=(np.inf, None))
    fits = error <= _LARGEST_ERROR * float(np.linalg.norm(value))
    return place if fits else None


def pixels_of(images, size):
    """A data set of images as the tower takes them."""
    files = tf.data.Dataset.from_tensor_slices(images)
    return files.map(lambda image: preprocess_image_bytes(image, size))


def measure(folder, stamps=None):
    """Returns the recall on the stamps of the towers that lie in a folder."""
    if stamps is None:
        stamps = read_retrieval_set(build_corpus("stamps"), "test")
    model = ALIGN.from_preset(folder, load_weights=False)
    image, text = (LiteRTTower((folder / name).read_bytes()) for name in TOWER_FILES)
    captions, image_of = flatten_captions(stamps.captions)
    images = pixels_of(stamps.images, model.image_size).as_numpy_iterator()
    tokens = model.tokenizer(captions)
    numbers = range(len(captions))
    rows = [{name: ids[i : i + 1] for name, ids in tokens.items()} for i in numbers]
    metrics = retrieval_metrics(
        np.concatenate([image(images=one[None]) for one in images]),
        np.concatenate([text(**row) for row in rows]),
        positives=shared_positives(stamps.image_keys, captions, image_of),
        ks=(1, 5, 10),
    )
    return {name: round(value, 4) for name, value in metrics}


def main(arguments=None):
    """Exports, puts the folder together and measures it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument("--run", required=True, help="of the experiment align_small_en")
    given = parser.parse_args(arguments)
    config = load_config("align_small_en")
    task, size = config.task, config.task.model.image_encoder.image_size
    data, stamps = (
        read_retrieval_set(prepare_corpus(part, size), part.tfds_split)
        for part in (task.train_data, task.validation_data)
    )
    pixels = pixels_of(data.images, size).batch(64)
    write(open_run(given.run).model, given.to, pixels, len(data.images))
    print(json.dumps(measure(given.to, stamps)))


def write(model, folder, pixels, count):
    """Writes the folder: towers of 8 bits, and a preset of their weights."""
    fold_batch_norms(model.image_encoder)
    folder.mkdir(parents=True, exist_ok=True)
    shown = pixels.unbatch().shard(count // CALIBRATION_IMAGES, 0)
    shown = np.stack(list(shown.as_numpy_iterator())).astype("float32")
    image = image_flatbuffer(model, "int8", shown, license=LICENSE)
    text = text_flatbuffer(model, "int8", license=LICENSE)
    for name, content in zip(TOWER_FILES, (image, text), strict=True):
        (folder / name).write_bytes(content)
    save_beside_towers(model, folder)


if __name__ == "__main__":
    main()
