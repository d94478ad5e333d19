"""Converts a trained run to `align_small_en`, the model that the package includes.

Train the run first with `align-keras train --experiment align_small_en --model_dir
RUN`. `python -m tools.make_small_model --run RUN --to saved_models/align_small_en` then

- gives the text encoder room for 32 tokens, because queries are longer than the
  captions of the training,
- interpolates the image encoder, without its projection, between its initial and its
  trained weights,
- folds batch normalization into the convolutions,
- writes the towers as 8-bit LiteRT files,
- saves a preset that reads its large weights from these files,
- and measures recall on the stamps.

The folder serves phones, search without TensorFlow, and Keras. Its size is that of the
LiteRT files. Keras computes in float32 with the rounded weights, so its embeddings
differ from those of the towers only by the rounding of activations. The script needs
the extra `litert`.
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

from align_keras.config.model_config import ModelConfig
from align_keras.data import read_retrieval_set
from align_keras.datasets import open_corpus
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
    float_weights,
    read_tensors,
    to_keras,
)
from align_keras.presets.layout import REST_FILE, TABLE_FILE, TOWER_FILES
from align_keras.presets.saving import save_preprocessor, save_task_config
from align_keras.runs.finished_run import open_run
from align_keras.runs.model_from_config import build_model
from align_keras.runs.run_corpora import prepare_corpus
from align_keras.training.interpolation import interpolate_weights, read_weights
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

# Factor of the interpolation (Wortsman et al. 2022). 1 is the trained encoder. 0.8 has
# nearly the same mean recall on the held-out sources and recognizes more photographs
# (tools/benchmarks/bench_encoder_factor.py of commit a3635080).
ENCODER_FACTOR = 0.8
# Number of tokens of a text. The training pads its short captions to 16 tokens.
SEQUENCE_LENGTH = 32
# Number of training images that calibrate the ranges of activations.
CALIBRATION_IMAGES = 200
LICENSE = (
    "Apache-2.0. The weights derive from EfficientNet-Lite0 (Google, Apache-2.0) and "
    "all-MiniLM-L6-v2 (Apache-2.0), trained further on Open Clip Art (public domain), "
    "Noto Emoji (Apache-2.0) and Twemoji graphics (CC BY 4.0, Twitter, Inc.)."
)
# Licenses of the icon sets of the experiment `align_small_en`.
ICON_SET_LICENSES = (
    " The other drawings are Fluent Emoji (MIT, Microsoft Corporation), Emoji One 2 "
    "(CC BY 4.0, Emoji One), the first version of Noto Emoji (Apache-2.0, Google), "
    "Streamline (CC BY 4.0, Streamline), IconPark (Apache-2.0, ByteDance), Marketeq "
    "(MIT, Marketeq), Meteocons (MIT, Bas Milius), Game Icons (CC BY 3.0, GameIcons), "
    "Tabler Icons (MIT, Paweł Kuna), Lucide (ISC, Lucide Contributors), Pinhead Map "
    "Icons (CC0, Quincy Morgan), Boxicons (MIT, Boxicons), MingCute Icon (Apache-2.0, "
    "MingCute Design) and Carbon (Apache-2.0, IBM)."
)
# Weights with fewer values are saved as floats.
_MIN_SIZE = 256
# Largest relative error of a tensor that still counts as a weight's rounded copy. It is
# about 0.01 for rounding to 8 bits per channel, and 1.4 for two unrelated kernels.
_MAX_ERROR = 0.1
# Possible factors of stored tensors. LiteRT merges the halving of the class logits into
# the classifier.
_FACTORS = (1.0, 2.0)
# Name of a convolution → name of its batch normalization.
_NORM_NAMES = {
    name: f"{name}_norm" for name in ("stem", "head", "expand", "depthwise", "project")
}


def interpolate_encoder(model: ALIGN, model_config: ModelConfig, factor: float) -> None:
    """Interpolates the image encoder between its initial and its trained weights.

    The projection of the encoder keeps its trained weights.

    Args:
        model: trained model.
        model_config: `task.model` of its run, which names the initial weights.
        factor: float in [0, 1]. 0 restores the initial encoder, and 1 changes nothing.
    """
    initial = build_model(model_config, model.tokenizer.vocabulary)
    end = read_weights(model)
    start = dict(end)
    for path, weights in read_weights(initial).items():
        is_encoder = path.startswith("image_encoder/")
        if is_encoder and not path.startswith("image_encoder/projection/"):
            start[path] = weights
    interpolate_weights(model, start, end, factor)


def fold_batch_norms(image_encoder: keras.Model) -> None:
    """Folds batch normalizations into the preceding convolutions, as LiteRT does.

    The encoder's outputs do not change. The normalizations only add their shifts
    afterwards, so the encoder can no longer be trained with batch statistics.
    """
    layers: dict[str, Any] = {layer.name: layer for layer in image_encoder.layers}
    pairs: list[tuple[Any, Any]] = [
        (layers.get(conv), layers.get(norm)) for conv, norm in _NORM_NAMES.items()
    ]
    for block in image_encoder.blocks:
        for conv, norm in _NORM_NAMES.items():
            pairs.append((getattr(block, conv, None), getattr(block, norm, None)))
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


def save_with_towers(model: keras.Model, directory: pathlib.Path) -> None:
    """Saves a preset without the weights that the 8-bit towers contain.

    Args:
        model: `ALIGN` with folded batch normalization.
        directory: Folder with the model's LiteRT towers.

    Raises:
        InputError: If the towers lack most of the model's weights.
    """
    tensors = {name: read_tensors(directory / name) for name in TOWER_FILES}
    table: dict[str, Any] = {}
    float_tensors = {}
    for variable in float_weights(model):
        value = np.asarray(variable, "float32")
        location = _find_tensor(value, tensors) if value.size >= _MIN_SIZE else None
        if location is None:
            float_tensors[variable.path] = np.ascontiguousarray(value)
        else:
            table[variable.path] = location
    num_found = sum(np.prod(v.shape) for v in float_weights(model) if v.path in table)
    if num_found < 0.5 * model.count_params():
        raise InputError(
            f"{directory} must contain the 8-bit towers of this model. Received: "
            f"towers with {num_found:,.0f} of {model.count_params():,} weights. "
            "Export this model with `quantize='int8'` and folded batch normalization."
        )
    (directory / REST_FILE).write_bytes(save(float_tensors))
    with atomic_write(directory / TABLE_FILE) as file:
        json.dump(table, file, indent=1)
    save_preprocessor(model.preprocessor, directory)
    save_task_config(model, directory, [*TOWER_FILES, TABLE_FILE, REST_FILE])


def _find_tensor(value: np.ndarray, tensors: Mapping) -> list | None:
    """Returns the file, number and factor of the rounded tensor of a weight."""
    candidates = [
        (
            float(np.linalg.norm(factor * to_keras(tensor, value.shape) - value)),
            [file, number, factor],
        )
        for file, file_tensors in tensors.items()
        for number, tensor in file_tensors.items()
        if tensor.size == value.size
        for factor in _FACTORS
    ]
    error, location = min(candidates, default=(np.inf, None))
    is_match = error <= _MAX_ERROR * float(np.linalg.norm(value))
    return location if is_match else None


def preprocess_images(images, size):
    """Returns a `tf.data.Dataset` of preprocessed pixels (size, size, 3)."""
    files = tf.data.Dataset.from_tensor_slices(images)
    return files.map(lambda image: preprocess_image_bytes(image, size))


def measure(folder, stamps=None):
    """Measures the recall of LiteRT towers on the stamps.

    Args:
        folder: `pathlib.Path` of the towers and the preset.
        stamps: Retrieval set. None reads the test split of the stamps.

    Returns:
        Dict of metric name → recall.
    """
    if stamps is None:
        stamps = read_retrieval_set(open_corpus("stamps"), "test")
    model = ALIGN.from_preset(folder, load_weights=False)
    image, text = (LiteRTTower((folder / name).read_bytes()) for name in TOWER_FILES)
    captions, image_of = flatten_captions(stamps.captions)
    images = preprocess_images(stamps.images, model.image_size).as_numpy_iterator()
    tokens = model.tokenizer(captions)
    numbers = range(len(captions))
    rows = [{name: ids[i : i + 1] for name, ids in tokens.items()} for i in numbers]
    metrics = retrieval_metrics(
        np.concatenate([image(images=pixels[None]) for pixels in images]),
        np.concatenate([text(**row) for row in rows]),
        positives=shared_positives(stamps.image_keys, captions, image_of),
        ks=(1, 5, 10),
    )
    return {name: round(value, 4) for name, value in metrics}


def main(arguments: list[str] | None = None) -> None:
    """Writes the folder, and prints its recall on the stamps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--run", required=True, help="folder of a run of the experiment align_small_en"
    )
    options = parser.parse_args(arguments)
    try:
        convert(options.run, options.to)
        recall = measure(options.to)
    except InputError as error:
        parser.error(str(error))
    print(json.dumps(recall))


def convert(run: str, folder: pathlib.Path) -> None:
    """Interpolates the image encoder of a run, and writes the folder of the model.

    Args:
        run: str, folder of a run of the experiment `align_small_en`.
        folder: `pathlib.Path`, folder to write.

    Raises:
        InputError: if the folder of the run has no trained run.
    """
    task = open_run(run).config.task
    # Users who fine-tune the model train its projection only, unless they unlock it.
    model = ALIGN.from_preset(run, locked=True, sequence_length=SEQUENCE_LENGTH)
    interpolate_encoder(model, task.model, ENCODER_FACTOR)
    size = model.image_size
    corpus = prepare_corpus(task.train_data, size)
    data = read_retrieval_set(corpus, task.train_data.tfds_split)
    pixels = preprocess_images(data.images, size).batch(64)
    has_icon_sets = "/iconify/" in str(task.train_data.corpus)
    license_text = LICENSE + (ICON_SET_LICENSES if has_icon_sets else "")
    write(model, folder, pixels, len(data.images), license_text)


def write(model, folder, pixels, count, license_text):
    """Writes the 8-bit towers and the preset that reads its weights from them.

    Args:
        model: `ALIGN`. Its batch normalization is folded.
        folder: `pathlib.Path`.
        pixels: Batched dataset of training images, which calibrate the towers.
        count: Number of these images.
        license_text: str, license that the files of the towers contain.
    """
    fold_batch_norms(model.image_encoder)
    folder.mkdir(parents=True, exist_ok=True)
    calibration = pixels.unbatch().shard(count // CALIBRATION_IMAGES, 0)
    calibration = np.stack(list(calibration.as_numpy_iterator())).astype("float32")
    image = image_flatbuffer(model, "int8", calibration, license=license_text)
    text = text_flatbuffer(model, "int8", license=license_text)
    for name, content in zip(TOWER_FILES, (image, text), strict=True):
        (folder / name).write_bytes(content)
    save_with_towers(model, folder)


if __name__ == "__main__":
    main()
