"""Folders of `transformers.AlignModel`, and inputs with enough structure to compare.

Uniform noise gives nearly equal embeddings for all images, so the images have coarse
structure.
"""

import atexit
import functools
import json
import pathlib
import shutil
import tempfile
import zlib

import numpy as np

from tests.helpers.oracle_process import call_oracle
from tests.helpers.small import VOCABULARY

# Same values as in kakaobrain/align-base.
PREPROCESSOR = {
    "size": {"height": 346, "width": 346},
    "crop_size": {"height": 289, "width": 289},
    "resample": 2,
    "do_center_crop": True,
    "rescale_factor": 1 / 127.5,
    "rescale_offset": True,
    "do_normalize": False,
    "include_top": False,
}
TINY_TEXT = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}
# Recorded parts of the tiny model. `record_tiny_align` writes them.
TINY_ALIGN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "tiny_align"


def write_align_folder(folder, size, **options):
    """Writes a random AlignModel with the files of kakaobrain/align-base.

    Args:
        folder: `pathlib.Path` of an existing folder.
        size: Name of a size in `tests.oracles.hugging_face`, such as `"tiny"`.
        **options: Further arguments of `hugging_face.write_align`.

    Returns:
        `folder`.
    """
    call_oracle("hugging_face", "write_align", folder, size, **options)
    return _add_preprocessing_files(folder)


def _add_preprocessing_files(folder):
    preprocessor = json.dumps(PREPROCESSOR)
    (folder / "preprocessor_config.json").write_text(preprocessor)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


def drawn_weights(name, shape):
    """Draws weights from a seed that depends only on the name of the tensor.

    `RandomState` draws the same numbers in every version of NumPy.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    # The weights are uniform with 255 levels. Their standard deviation is 1 / √(number
    # of inputs).
    numbers = random.randint(-127, 128, shape) / 127
    return (numbers * np.sqrt(3 / np.prod(shape[1:]))).astype("float32")


def record_tiny_align():
    """Writes the config, shapes and vectors of a tiny AlignModel to `TINY_ALIGN`.

    Matrices and kernels take a megabyte, so `tiny_align` draws them again instead of
    reading them. Vectors, such as the calibrated statistics of batch normalization,
    are concatenated in one file.
    """
    TINY_ALIGN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        options = {"draw": drawn_weights, **TINY_TEXT}
        call_oracle("hugging_face", "write_align", folder, "tiny", **options)
        config = pathlib.Path(folder, "config.json").read_text()
        tensors = call_oracle("hugging_face", "tensors", folder)
    (TINY_ALIGN / "config.json").write_text(config)
    shapes = {name: value.shape for name, value in tensors.items()}
    lines = [
        f" {json.dumps(name)}: {json.dumps(shape)}" for name, shape in shapes.items()
    ]
    (TINY_ALIGN / "shapes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    vectors = [value.ravel() for value in tensors.values() if value.ndim < 2]
    np.savez_compressed(TINY_ALIGN / "vectors.npz", vectors=np.concatenate(vectors))


@functools.cache
def tiny_align():
    """Returns the folder of the recorded AlignModel. Tests must not change it."""
    from safetensors.numpy import save_file

    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    vectors = np.load(TINY_ALIGN / "vectors.npz")["vectors"]
    tensors, start = {}, 0
    for name, shape in json.loads((TINY_ALIGN / "shapes.json").read_text()).items():
        if len(shape) > 1:
            tensors[name] = drawn_weights(name, shape)
            continue
        tensors[name] = vectors[start : start + int(np.prod(shape))].reshape(shape)
        start += tensors[name].size
    assert start == len(vectors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(TINY_ALIGN / "config.json", folder)
    return _add_preprocessing_files(folder)


def random_pairs(height, width, count=3, length=20, vocabulary_size=200):
    """Returns a batch of random images with coarse structure and random captions.

    Returns:
        Dict of `images` (count, height, width, 3) in [0, 255], `token_ids` and
        `padding_mask` (count, length). The second half of the first caption is padding.
    """
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 8, 8, 3))
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    images = coarse[:, rows][:, :, columns].astype("float32")
    noise = random.normal(0, 20, images.shape)
    token_ids = random.integers(5, vocabulary_size, (count, length)).astype("int32")
    padding_mask = np.ones((count, length), "int32")
    padding_mask[0, length // 2 :] = 0
    return {
        "images": np.clip(images + noise, 0, 255).astype("float32"),
        "token_ids": token_ids,
        "padding_mask": padding_mask,
    }
