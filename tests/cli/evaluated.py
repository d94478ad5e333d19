"""A model and the data that the tests of `evaluate` share."""

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


def unprepared(name):
    """A builder of TFDS with splits, of which nothing is prepared."""
    builder = tfds.builder(name, data_dir="/nowhere")
    splits = [
        tfds.core.SplitInfo(name=split, shard_lengths=[100_000], num_bytes=0)
        for split in ("train", "validation", "test")
    ]
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    return builder


def check_counts(metrics):
    """Every recall has the numbers of its queries and of its candidates."""
    for name in metrics:
        if "recall_at" not in name:
            continue
        prefixes = [name[:end] for end, letter in enumerate(name, 1) if letter == "/"]
        counts = [f"{prefix}queries" for prefix in ("", *prefixes)]
        counted = [count for count in counts if count in metrics]
        assert counted, name
        assert metrics[counted[-1]] > 0
        assert metrics[counted[-1].replace("queries", "candidates")] > 0


@pytest.fixture(scope="module")
def align():
    """As `tests.helpers.small`, but it reads whole captions, numbers included."""
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
    # As they are drawn, all captions fall within 1e-6, where rounding decides.
    for variable in text_encoder.trainable_variables:
        if variable.path.endswith(("kernel", "embeddings")):
            variable.assign(20 * variable)
    return ALIGN(small_encoders()[0], text_encoder, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def model(align, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "run"
    align.save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A --data_root with every set of the protocols."""
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


def embeddings(align, data, captions_of):
    images = align.encode_images(data.images)
    texts = align.encode_texts([text for own in captions_of for text in own])
    return images, texts, np.repeat(np.arange(len(images)), list(map(len, captions_of)))


def cxc_parts(align, data):
    from align_keras.datasets import benchmarks

    coco = benchmarks.read_karpathy(
        data / "coco/dataset_coco.json", data / "coco", "test", captions_per_image=None
    )
    # Images have five, six or seven captions, of which the first five are rated.
    coco = dataclasses.replace(
        coco,
        captions=[texts[:5] for texts in coco.captions],
        caption_ids=[names[:5] for names in coco.caption_ids],
    )
    images, texts, _ = embeddings(align, coco, coco.captions)
    row_of = {
        f"COCO_val2014:sentid:{name}": row
        for row, name in enumerate(name for own in coco.caption_ids for name in own)
    } | {coco_name(row): row for row in range(6)}
    pairs = {
        task: [(row_of[first], row_of[second], score) for first, second, score in own]
        for task, own in cxc_rows().items()
    }
    return images, texts, pairs


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Five classes of eight colors, six of them to learn from."""
    root = tmp_path_factory.mktemp("shapes")
    for number, color in enumerate(COLORS):
        for shape in SHAPES:
            folder = root / ("test" if number >= 6 else "train") / shape
            folder.mkdir(parents=True, exist_ok=True)
            draw(color, shape).save(folder / f"{color}.png")
    return root


@pytest.fixture
def imagenet_r(tmp_path, monkeypatch, capsys):
    """Three pictures as TFDS stores ImageNet-R."""
    ids = ["n07753592", "n02123045", "n07753592"]  # Banana and tabby cat.
    examples = []
    for row, (own, shape) in enumerate(zip(ids, SHAPES, strict=False)):
        file = io.BytesIO()
        draw("red", shape).save(file, "JPEG")
        picture = io.BytesIO(file.getvalue())
        examples.append((row, {"image": picture, "label": own, "file_name": str(row)}))
    builder = tfds.builder("imagenet_r", data_dir=tmp_path)
    generators = {"test": iter(examples)}
    with mock.patch.object(type(builder), "_split_generators", lambda *_: generators):
        tfds.disable_progress_bar()
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    capsys.readouterr()  # What TFDS tells of it.
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir=None: builder)
    return ids
