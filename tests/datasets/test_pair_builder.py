"""Tests of the base class of all corpora: features, counts, splits, interruptions."""

import concurrent.futures
import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.datasets.image_layout import ImageLayout, pixel_key
from align_keras.datasets.named_corpora import open_corpus
from align_keras.datasets.pair_builder import PairBuilder, RawPair
from align_keras.utils.errors import InputError

# Number of images in the table of the tests with interruptions.
IMAGES = 60


class Toy(PairBuilder, skip_registration=True):
    """Corpus of raw pairs from a test."""

    VERSION = tfds.core.Version("1.0.0")
    LAYOUT = ImageLayout(size=16)
    TEST_FRACTION = 0.0  # The test split still has one image.

    def __init__(self, raw_pairs, **kwargs):
        self.raw_pairs = raw_pairs
        super().__init__(**kwargs)

    def _raw_pairs(self, counter):
        return self.raw_pairs


def png(color, size=(4, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def pair(identifier, source, split="train", captions=("a caption",), count=1):
    where = f"line {identifier}"
    return RawPair(identifier, source, captions, "things", split, where, count)


def examples_of(builder, split="all"):
    dataset = tfds.as_numpy(builder.as_dataset(split=split))
    return {example["id"].decode(): example for example in dataset}


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


def test_examples_have_the_features_of_a_corpus(tmp_path):
    builder = Toy(
        [
            pair("a", png("red"), captions=("A", "Käse")),
            pair("b", png("blue", (40, 20)), split="test"),
        ],
        data_dir=tmp_path,
    )
    builder.download_and_prepare()
    features = builder.info.features
    assert set(features) == {"id", "image", "captions", "category", "image_key"}
    assert features["image"].shape == (None, None, 3)
    assert features["image"].dtype == np.uint8
    assert set(builder.info.splits) == {"train", "test"}
    a, b = examples_of(builder)["a"], examples_of(builder, "test")["b"]
    assert [text.decode() for text in a["captions"]] == ["A", "Käse"]
    assert a["category"] == b"things"
    assert (a["image"] == (255, 0, 0)).all() and a["image"].shape == (4, 4, 3)
    assert b["image"].shape == (16, 16, 3)
    for example in (a, b):
        stored = Image.fromarray(example["image"])
        assert example["image_key"].decode() == pixel_key(stored)


def test_counts_are_stored_on_disk(tmp_path):
    raw_pairs = [pair(str(n), png((n, 0, 0))) for n in range(9)]
    raw_pairs += [pair("x", tmp_path / "nowhere.png", count=1)]
    Toy(raw_pairs, data_dir=tmp_path).download_and_prepare()
    for reloaded in (
        Toy([], data_dir=tmp_path),
        tfds.builder_from_directory(tmp_path / "toy/1.0.0"),
    ):
        metadata = reloaded.info.metadata
        assert metadata["kept"] == 9
        assert metadata["dropped"] == {"missing": 1}
        assert metadata["examples"]["missing"].startswith("line x: no file ")
        assert metadata["notes"]["images"] == 9
        assert metadata["summary"][0] == "9 pairs kept"


def test_too_many_bad_pairs_raise_and_leave_no_files(tmp_path, monkeypatch):
    raw_pairs = [pair("a", png("red")), pair("b", b""), pair("c", b"GIF89a")]
    builder = Toy(raw_pairs, data_dir=tmp_path)
    open_temporary = tempfile.TemporaryFile
    temporary_files = []

    def record_file(**options):
        temporary_files.append(open_temporary(**options))
        return temporary_files[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", record_file)
    with pytest.raises(InputError, match="2 of 3 .*line b"):
        builder.download_and_prepare()
    assert [file.closed for file in temporary_files] == [True]
    assert not [name for name in files_of(tmp_path) if "lock" not in name]
    assert not list(tmp_path.rglob("incomplete*"))
    Toy(raw_pairs, data_dir=tmp_path, max_bad_fraction=0.7).download_and_prepare()
    # Opening the prepared corpus with the stricter limit raises again.
    with pytest.raises(InputError, match="2 of 3"):
        Toy(raw_pairs, data_dir=tmp_path).download_and_prepare()


def test_a_dropped_image_counts_all_its_pairs(tmp_path):
    raw_pairs = [pair("a", png("red"), count=3), pair("b", b"", count=5)]
    with pytest.raises(InputError, match="5 of 8"):
        Toy(raw_pairs, data_dir=tmp_path).download_and_prepare()


def test_an_empty_corpus_raises(tmp_path):
    with pytest.raises(InputError, match="empty"):
        Toy([], data_dir=tmp_path, max_bad_fraction=1.0).download_and_prepare()


def test_repeated_ids_are_dropped(tmp_path):
    raw_pairs = [pair("a", png("red")), pair("a", png("blue")), pair("b", png("lime"))]
    builder = Toy(raw_pairs, data_dir=tmp_path, max_bad_fraction=0.5)
    builder.download_and_prepare()
    assert builder.info.metadata["dropped"] == {"duplicate id": 1}
    assert (examples_of(builder)["a"]["image"][0, 0] == (255, 0, 0)).all()


def test_images_with_equal_pixels_are_in_the_same_split(tmp_path):
    raw_pairs = [
        pair(f"{color}{n}", png(color), split=None)
        for n in range(3)
        for color in ("red", "blue", "lime")
    ]
    builder = Toy(raw_pairs, data_dir=tmp_path)
    builder.download_and_prepare()
    train, test = examples_of(builder, "train"), examples_of(builder, "test")
    assert (len(train), len(test)) == (6, 3)
    assert len({example["image_key"] for example in test.values()}) == 1
    assert builder.info.metadata["notes"]["distinct_images"] == 3


def test_progress_counts_to_the_total(tmp_path):
    calls = []
    raw_pairs = [pair(str(n), png((n, 0, 0))) for n in range(150)]
    raw_pairs[70] = pair("bad", b"")
    builder = Toy(raw_pairs, data_dir=tmp_path, progress=lambda *c: calls.append(c))
    builder.download_and_prepare()
    assert calls == [(done, 150) for done in range(1, 151)]


def test_a_build_prints_nothing(tmp_path, capfd, caplog):
    table = write_table(tmp_path)
    open_corpus("pairs", pairs=table, data_dir=tmp_path / "data")
    captured = capfd.readouterr()
    assert captured.out == "" and not caplog.records
    for word in ("Dataset", "Generating", "Shuffling", "WARNING"):
        assert word not in captured.err


def test_two_builds_write_the_same_bytes(tmp_path):
    raw_pairs = [pair(str(n), png((n, 0, 0))) for n in range(40)]
    contents = []
    for name in ("one", "two"):
        Toy(raw_pairs, data_dir=tmp_path / name).download_and_prepare()
        contents.append(files_of(tmp_path / name / "toy/1.0.0"))
    assert contents[0] == contents[1]


# The following tests interrupt real processes by signals and limits.


def write_table(folder):
    """Writes images that compress badly, and their table."""
    random = np.random.default_rng(0)
    rows = ["image,caption"]
    for number in range(IMAGES):
        values = random.integers(0, 256, (48, 48, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{number} {'long ' * 300}")
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder / "pairs.csv"


def start_process(folder, code):
    """Starts a Python process that runs the code after some common definitions."""
    prelude = (
        "import sys, time, resource\n"
        "from align_keras.datasets import open_corpus\n"
        "from align_keras.datasets.pair_builder import PairBuilder\n"
        "def stop():\n"
        "    print('now', flush=True)\n"
        "    time.sleep(600)\n"
        f"pairs, data_dir = {str(folder / 'pairs.csv')!r}, {str(folder / 'data')!r}\n"
    )
    root = pathlib.Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


KILLED_WHILE_READING = """
open_corpus("pairs", pairs=pairs, data_dir=data_dir,
             progress=lambda done, total: stop() if done == 30 else None)
"""
KILLED_WHILE_WRITING = """
generate = PairBuilder._generate_examples
def slow(self, entries):
    for number, item in enumerate(generate(self, entries)):
        if number == 20:
            stop()
        yield item
PairBuilder._generate_examples = slow
open_corpus("pairs", pairs=pairs, data_dir=data_dir)
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(KILLED_WHILE_READING, marks=pytest.mark.release, id="reading"),
        pytest.param(KILLED_WHILE_WRITING, marks=pytest.mark.ci, id="writing"),
    ],
)
def test_the_build_after_a_killed_build_is_complete(tmp_path, code):
    write_table(tmp_path)
    process = start_process(tmp_path, code)
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    data_dir = tmp_path / "data"
    assert list(data_dir.rglob("incomplete.*")), "killed too late or too early"
    assert not list(data_dir.rglob("dataset_info.json"))
    assert not list(data_dir.rglob("1.0.0"))
    rebuilt = open_corpus("pairs", pairs=tmp_path / "pairs.csv", data_dir=data_dir)
    assert not list(data_dir.rglob("incomplete.*"))
    uninterrupted = open_corpus(
        "pairs", pairs=tmp_path / "pairs.csv", data_dir=tmp_path / "other"
    )
    assert files_of(rebuilt.data_dir) == files_of(uninterrupted.data_dir)
    assert rebuilt.info.metadata["kept"] == IMAGES


@pytest.mark.release
def test_a_full_disk_raises_and_leaves_no_shards(tmp_path):
    # The images take 318 KB, and the records of the train split take 375 KB.
    write_table(tmp_path)
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (345_000, 345_000))
try:
    open_corpus("pairs", pairs=pairs, data_dir=data_dir)
except Exception as error:
    print(type(error).__name__, error)
"""
    output, _ = start_process(tmp_path, code).communicate(timeout=120)
    assert output.startswith("InputError data_dir"), output
    assert "File too large" in output
    data_dir = tmp_path / "data"
    assert not list(data_dir.rglob("1.0.0"))
    assert not list(data_dir.rglob("*.tfrecord*"))


def test_an_error_of_tensorflow_while_writing_names_the_folder(tmp_path, monkeypatch):
    import tensorflow as tf

    def fail(builder, **options):
        cause = tf.errors.ResourceExhaustedError(None, None, "a/b; File too large")
        raise RuntimeError("Failed to write") from cause

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    monkeypatch.setattr(PairBuilder, "download_and_prepare", fail)
    table = write_table(tmp_path)
    with pytest.raises(InputError, match="data_dir.*File too large"):
        open_corpus("pairs", pairs=table, data_dir=tmp_path / "data")


def test_a_second_build_waits_for_the_first(tmp_path):
    options = {"pairs": write_table(tmp_path), "data_dir": tmp_path / "data"}
    calls = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        second_builds = []

        def start_second_build(done, total):
            if done == 1:
                build = pool.submit(
                    open_corpus,
                    "pairs",
                    progress=lambda *call: calls.append(call),
                    **options,
                )
                second_builds.append(build)
            if done == total:
                time.sleep(0.2)
                assert not second_builds[0].done()

        open_corpus("pairs", progress=start_second_build, **options)
        builder = second_builds[0].result()
    assert calls == [] and builder.info.splits["train"].num_examples > 40
