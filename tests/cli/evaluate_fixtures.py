"""Models and data sets that the tests of `align-keras evaluate` share."""

import dataclasses
import io
import string
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.helpers.small_benchmarks import (
    coco_name,
    cxc_rows,
    simlex_lines,
    write_coco,
    write_cxc,
    write_flickr30k,
    write_multi30k,
    write_simlex,
)
from tests.helpers.small_run import COLORS, SHAPES, draw

LETTERS = string.ascii_lowercase + string.digits
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
]


def check_counts(metrics):
    """Checks that each recall has numbers of queries and candidates."""
    for name in metrics:
        if "recall_at" not in name:
            continue
        prefixes = [name[:end] for end, letter in enumerate(name, 1) if letter == "/"]
        count_names = [f"{prefix}queries" for prefix in ("", *prefixes)]
        present_counts = [count for count in count_names if count in metrics]
        assert present_counts, name
        assert metrics[present_counts[-1]] > 0
        assert metrics[present_counts[-1].replace("queries", "candidates")] > 0


@pytest.fixture(scope="module")
def align():
    """Small ALIGN model whose vocabulary covers all letters and digits."""
    from align_keras.models import ALIGN, TextEncoder
    from tests.helpers.small import small_encoders

    text_encoder = TextEncoder(
        vocabulary_size=len(VOCABULARY),
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=16,
        sequence_length=40,
    )
    # With the initial weights, the embeddings of all captions differ by less than 1e-6,
    # so that rounding would determine the ranks.
    for variable in text_encoder.trainable_variables:
        if variable.path.endswith(("kernel", "embeddings")):
            variable.assign(20 * variable)
    return ALIGN.from_encoders(small_encoders()[0], text_encoder, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def model(align, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "run"
    align.save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder for --data_root with small versions of all data sets."""
    root = tmp_path_factory.mktemp("data")
    (root / "flickr30k").mkdir()
    (root / "coco").mkdir()
    write_flickr30k(root / "flickr30k")
    write_coco(root / "coco")
    write_cxc(root / "cxc", cxc_rows())
    write_multi30k(root / "multi30k", root / "flickr30k/images", 1000)
    (root / "SimLex-999").mkdir()
    write_simlex(root / "SimLex-999/SimLex-999.txt", simlex_lines(999))
    return root


def encode_data(align, data, captions_of_images):
    """Returns image embeddings, text embeddings, and the image row of each text."""
    images = align.encode_images(data.images)
    texts = align.encode_texts(
        [text for captions in captions_of_images for text in captions]
    )
    counts = [len(captions) for captions in captions_of_images]
    return images, texts, np.repeat(np.arange(len(images)), counts)


def encode_cxc(align, data):
    """Returns embeddings and rated pairs of the small CxC data set.

    Returns:
        tuple of image embeddings, text embeddings, and a dict from task to a list of
        (first row, second row, rating).
    """
    from align_keras.datasets import benchmarks

    coco = benchmarks.read_karpathy(
        data / "coco/dataset_coco.json", data / "coco", "test", captions_per_image=None
    )
    # Images have five to seven captions. CxC rates the first five.
    coco = dataclasses.replace(
        coco,
        captions=[texts[:5] for texts in coco.captions],
        caption_ids=[names[:5] for names in coco.caption_ids],
    )
    images, texts, _ = encode_data(align, coco, coco.captions)
    row_of = {
        f"COCO_val2014:sentid:{name}": row
        for row, name in enumerate(name for names in coco.caption_ids for name in names)
    } | {coco_name(row): row for row in range(6)}
    pairs = {
        task: [(row_of[first], row_of[second], score) for first, second, score in rows]
        for task, rows in cxc_rows().items()
    }
    return images, texts, pairs


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Folder of five classes with six training images and two test images each."""
    root = tmp_path_factory.mktemp("shapes")
    for number, color in enumerate(COLORS):
        for shape in SHAPES:
            folder = root / ("test" if number >= 6 else "train") / shape
            folder.mkdir(parents=True, exist_ok=True)
            draw(color, shape).save(folder / f"{color}.png")
    return root


@pytest.fixture
def imagenet_r(tmp_path, monkeypatch, capsys):
    """Three images in the TFDS format of ImageNet-R. Returns their class ids."""
    # The ids of the classes banana and tabby cat.
    ids = ["n07753592", "n02123045", "n07753592"]
    examples = []
    for row, (wordnet_id, shape) in enumerate(zip(ids, SHAPES, strict=False)):
        file = io.BytesIO()
        draw("red", shape).save(file, "JPEG")
        image = io.BytesIO(file.getvalue())
        examples.append(
            (row, {"image": image, "label": wordnet_id, "file_name": str(row)})
        )
    builder = tfds.builder("imagenet_r", data_dir=tmp_path)
    generators = {"test": iter(examples)}
    with mock.patch.object(type(builder), "_split_generators", lambda *_: generators):
        tfds.disable_progress_bar()
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    # TFDS prints progress, which the tests must not find in the output of the command.
    capsys.readouterr()
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir=None: builder)
    return ids
