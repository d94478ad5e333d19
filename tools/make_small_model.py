"""Writes `align_small_en`, the model that comes with the package, of a trained run.

After `align-keras train --experiment align_small_en --model_dir RUN`, `python -m
tools.make_small_model --run RUN --to saved_models/align_small_en` needs the extra
`litert`. Batch normalization is folded, the towers become LiteRT files of 8 bits, and
the preset takes its weights from these. They are judged by the stamps.
"""

import argparse
import json
import pathlib

import numpy as np
import tensorflow as tf

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
from align_keras.models.conversion.litert_weights import TOWER_FILES
from align_keras.runs import assemble
from align_keras.runs.run import open_run
from tools.tower_weights import fold_batch_norms, save_beside_towers

CALIBRATION_IMAGES = 200
LICENSE = (
    "Apache-2.0. The weights derive from EfficientNet-Lite2 (Google, Apache-2.0) and "
    "all-MiniLM-L6-v2 (Apache-2.0), trained further on Open Clip Art (public domain), "
    "Noto Emoji (Apache-2.0) and Twemoji graphics (CC BY 4.0, Twitter, Inc.)."
)


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
        read_retrieval_set(assemble.prepare_corpus(part, size), part.tfds_split)
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
