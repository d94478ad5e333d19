"""A model and data sets that the tests of the protocols share."""

import dataclasses
import io
import pathlib
import zlib
from unittest import mock

import numpy as np
import pytest

import align_keras
from align_keras.embedders import Embedder
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import (
    coco_name,
    cxc_rows,
    simlex_lines,
    write_coco,
    write_cxc,
    write_flickr30k,
    write_simlex,
)
from tests.helpers.small_run import COLORS, SHAPES, draw


class HashModel(Embedder):
    """Model in memory whose embeddings are random numbers that only the input decides.

    A test can therefore compare metrics with a calculation from the embeddings.
    """

    name = "hashes"
    runtime = "keras"
    in_memory = True
    align = object()
    dimension = 16
    fingerprint = image_fingerprint = text_fingerprint = "hashes"

    def encode_images(self, images):
        return np.stack([self._vector(_image_content(image)) for image in images])

    def encode_texts(self, texts):
        return np.stack([self._vector(text.encode()) for text in texts])

    encode_words = encode_texts

    def encode_resized(self, images):
        raise NotImplementedError("protocols embed images in their original size")

    def _vector(self, content):
        if content == b"no image":
            raise InputError("The image must be decodable.")
        vector = np.random.default_rng(zlib.crc32(content)).normal(size=self.dimension)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def _image_content(image):
    if hasattr(image, "read"):
        content = image.read()
        image.seek(0)
        return content
    return image if isinstance(image, bytes) else pathlib.Path(image).read_bytes()


@pytest.fixture(scope="session")
def align():
    return HashModel()


@pytest.fixture
def evaluate(align, data, tmp_path_factory):
    """Function that evaluates the model with options such as "--split=train".

    It returns the result, or the message of the error if `fails` is true.
    """
    cache = tmp_path_factory.getbasetemp() / "embeddings"

    def run(protocol, *words, fails=False):
        options = {"data_root": str(data)}
        for word in words:
            name, equals, value = word.removeprefix("--").partition("=")
            options[name] = value if equals else True
        if fails:
            with pytest.raises((InputError, OSError)) as error:
                align_keras.evaluate(align, protocol, cache=cache, **options)
            return str(error.value)
        result = align_keras.evaluate(align, protocol, cache=cache, **options)
        check_counts(result["metrics"])
        return result

    return run


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


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Folder for --data_root with small versions of all data sets."""
    root = tmp_path_factory.mktemp("data")
    (root / "flickr30k").mkdir()
    (root / "coco").mkdir()
    write_flickr30k(root / "flickr30k")
    write_coco(root / "coco")
    write_cxc(root / "cxc", cxc_rows())
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


@pytest.fixture(scope="session")
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
    import tensorflow_datasets as tfds

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


def sampled_correlations(images, texts, pairs, count):
    """Returns Spearman correlations of samples of half of the images, by SciPy.

    Each sample has one rated caption of each image.

    Args:
        images: embeddings of images.
        texts: embeddings of captions.
        pairs: tuples (row of a caption, row of an image, score).
        count: number of images from which the samples are drawn.
    """
    from scipy import stats

    rng = np.random.default_rng(5)
    pairs_of_image = [
        [pair for pair in pairs if pair[1] == row] for row in range(count)
    ]
    correlations = []
    for _ in range(1000):
        rows = rng.choice(count, count // 2, replace=False)
        chosen = [
            pairs_of_image[row][rng.integers(len(pairs_of_image[row]))] for row in rows
        ]
        cosines = [float(texts[first] @ images[row]) for first, row, _ in chosen]
        scores = [score for *_, score in chosen]
        is_constant = len(set(scores)) == 1 or len(set(cosines)) == 1
        correlation = 0.0 if is_constant else stats.spearmanr(cosines, scores).statistic
        correlations.append(correlation)
    return correlations
