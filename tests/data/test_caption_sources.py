"""Tests of captions that are drawn by the probabilities of their sources."""

import collections
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras.data import training_batches
from align_keras.data.caption_sources import caption_probabilities
from align_keras.datasets import open_corpus, open_sources
from align_keras.models import ALIGNImageConverter, ALIGNPreprocessor, ALIGNTokenizer
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY
from tests.helpers.source_files import jpeg, write_tar

SOURCES = {"alt": 0.7, "synthetic": 0.3}
PREPROCESSOR = ALIGNPreprocessor(
    ALIGNTokenizer(VOCABULARY, sequence_length=4), ALIGNImageConverter(32)
)
# Captions are single letters. Image 0 has all sources, and the others have one.
ROWS = [
    ("0.png", "a", "alt"),
    ("0.png", "b", "synthetic"),
    ("0.png", "c", "alt"),
    ("1.png", "d", "alt"),
    ("2.png", "e", "synthetic"),
    ("2.png", "f", "synthetic"),
    ("0.png", "x", "file"),
]


@pytest.mark.parametrize(
    "sources, expected",
    [
        (["alt", "alt", "synthetic"], [0.35, 0.35, 0.3]),
        (["synthetic", "file", "synthetic"], [0.5, 0, 0.5]),
        (["file", "file"], [0.5, 0.5]),
    ],
)
def test_probabilities_are_divided_among_the_sources_of_an_image(sources, expected):
    probabilities = caption_probabilities(tf.constant(sources), SOURCES).numpy()
    assert probabilities / probabilities.sum() == pytest.approx(expected, abs=1e-15)


def test_captions_are_drawn_with_the_expected_frequencies():
    captions = tf.constant(["a", "b", "c", "d"])
    weights = np.array([0.0, 0.7, 0.3, 0.0])
    seeds = tf.stack([tf.range(2000, dtype=tf.int64)] * 2, axis=1)

    @tf.function
    def draw(weights):
        return tf.map_fn(
            lambda seed: PREPROCESSOR.choose_caption(captions, seed, weights),
            seeds,
            fn_output_signature=tf.string,
        )

    drawn = [caption.decode() for caption in draw(tf.constant(weights)).numpy()]
    numbers = [float(tf.random.stateless_uniform((), seed)) for seed in seeds[:50]]
    indexes = np.searchsorted(np.cumsum(weights), numbers, side="right")
    assert drawn[:50] == ["abcd"[index] for index in indexes]
    counts = collections.Counter(drawn)
    assert set(counts) == {"b", "c"}
    # Four standard deviations of 2,000 draws with a probability of 0.7.
    assert counts["b"] / 2000 == pytest.approx(0.7, abs=4 * (0.21 / 2000) ** 0.5)
    # Only the ratio of the weights matters.
    scaled = draw(tf.constant(weights * 5)).numpy()
    assert [caption.decode() for caption in scaled] == drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for name in ("0", "1", "2", "3"):
        pixels = np.full((40, 40, 3), 60 * int(name), "uint8")
        Image.fromarray(pixels).save(folder / f"{name}.png")
    lines = [",".join(row) for row in ROWS]
    # The table has one image more, because one image belongs to the test split.
    lines = ["image,caption,source", *lines, "3.png,g,alt"]
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder


def open_pairs(folder, **options):
    return open_corpus(
        "pairs", pairs=folder / "pairs.csv", data_dir=folder / "data", **options
    )


@pytest.mark.ci
@pytest.mark.parametrize(
    "cache", [False, pytest.param(True, marks=pytest.mark.release)]
)
def test_epochs_of_a_table_have_the_frequencies_of_the_sources(folder, cache):
    builder = open_pairs(folder, caption_sources=list(SOURCES))
    batches = training_batches(
        builder,
        "all",
        PREPROCESSOR,
        batch_size=4,
        cache=cache,
        caption_sources=SOURCES,
    )
    letters = collections.Counter()
    epochs = 60
    for batch in batches.take(epochs).as_numpy_iterator():
        letters.update(VOCABULARY[number] for number in batch["token_ids"][:, 1])
    expected = {"a": 0.35, "b": 0.3, "c": 0.35, "d": 1, "e": 0.5, "f": 0.5, "g": 1}
    assert set(letters) == set(expected)
    for letter, probability in expected.items():
        deviation = (probability * (1 - probability) / epochs) ** 0.5
        frequency = letters[letter] / epochs
        assert frequency == pytest.approx(probability, abs=4 * deviation + 1e-9)


@pytest.mark.ci
def test_corpora_without_sources_are_refused(folder):
    arguments = {"batch_size": 2, "caption_sources": SOURCES}
    builder = open_pairs(folder)
    with pytest.raises(InputError, match="caption_sources"):
        training_batches(builder, "train", PREPROCESSOR, **arguments)


# Captions of the records of shards by their source. The last record has no caption of a
# source, and is counted as bad.
RECORDS = [
    {"alt": "a", "synthetic": "b"},
    {"alt": "c", "synthetic": ""},
    {"synthetic": "d"},
    {"file": "x"},
]


def write_shard(kind, folder):
    """Writes the records as a shard. Returns its path."""
    path = folder / f"a.{'tar' if kind == 'webdataset' else kind}"
    images = [jpeg(number) for number in range(len(RECORDS))]
    if kind == "webdataset":
        members = [
            {"jpg": image, "txt": b"y", "json": json.dumps(record).encode()}
            for image, record in zip(images, RECORDS, strict=True)
        ]
        # A key may have a list of captions, as a cell of a table.
        members[2]["json"] = json.dumps({"synthetic": ["d"]}).encode()
        write_tar(path, [(f"{row:03}", parts) for row, parts in enumerate(members)])
    elif kind == "tfrecord":
        with tf.io.TFRecordWriter(str(path)) as writer:
            for image, record in zip(images, RECORDS, strict=True):
                values = {"jpg": image, "caption": b"y"}
                values |= {name: text.encode() for name, text in record.items()}
                example = tf.train.Example()
                for name, value in values.items():
                    example.features.feature[name].bytes_list.value.append(value)
                writer.write(example.SerializeToString())
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {"jpg": images, "caption": ["y"] * len(images)}
        for name in ("alt", "synthetic", "file"):
            columns[name] = [record.get(name) for record in RECORDS]
        # A cell may have a list of captions.
        columns["synthetic"] = [[text] if text else [] for text in columns["synthetic"]]
        table = pyarrow.table(columns)
        if kind == "parquet":
            parquet.write_table(table, path)
        else:
            with pyarrow.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "webdataset",
        pytest.param("tfrecord", marks=pytest.mark.release),
        pytest.param("parquet", marks=pytest.mark.release),
        pytest.param("arrow", marks=pytest.mark.release),
    ],
)
def test_shards_have_the_captions_of_all_sources(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = str(write_shard(kind, tmp_path))
    options = {"max_bad_fraction": 0.3}
    builder = open_sources(path, caption_sources=list(SOURCES), **options)
    assert "3 pairs kept" in builder.info.metadata["summary"]
    assert list(builder.captions("train")) == ["a", "b", "c", "d"]
    letters = collections.Counter()
    batches = training_batches(
        builder, "train", PREPROCESSOR, batch_size=3, caption_sources=SOURCES
    )
    for batch in batches.take(100).as_numpy_iterator():
        letters.update(VOCABULARY[number] for number in batch["token_ids"][:, 1])
    assert set(letters) == set("abcd")
    assert letters["c"] == letters["d"] == 100
    # Four standard deviations of 100 draws with a probability of 0.7.
    assert letters["a"] == pytest.approx(70, abs=4 * 21**0.5)
    # The index with sources is another one than that without.
    assert list(open_sources(path, **options).captions("train")) == ["y"] * 4

    with pytest.raises(InputError, match="drawn"):
        open_sources(path, caption_sources=["alt", "drawn"], max_bad_fraction=1.0)
