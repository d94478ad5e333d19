"""Tests of the LiteRT export: files, examples, accuracy table."""

import contextlib
import importlib.util
import io
import json
import pathlib
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras import datasets
from align_keras.datasets import benchmarks
from align_keras.datasets.benchmarks.tfds_images import StoredImage
from align_keras.export.litert_file import read_tower_metadata
from align_keras.images import preprocess_image
from align_keras.runs.export_litert import (
    calibration_images,
    export_litert,
    measure,
    read_pixels,
    retrieval_pairs,
)
from align_keras.runs.model_export import export_model
from align_keras.utils.errors import InputError
from tests.helpers.image_files import readable_files, refused_files
from tests.helpers.small import VOCABULARY, small_encoders
from tests.helpers.small_run import COLORS, SHAPES, write_pairs

pytest.importorskip("litert_quantizer", reason="litert-quantizer isn't installed")

# The export of the models takes minutes.
pytestmark = pytest.mark.ci

TEXTS = ["a red ring", "bars", "a green cross"]


@pytest.fixture(scope="module")
def align(pairs):
    """A model with one block in its image encoder, and statistics of drawn images."""
    from align_keras.models import ALIGN

    encoders = small_encoders(lite=True, num_stages=1, batch_norm_momentum=0.5)
    model = ALIGN.from_encoders(*encoders, vocabulary=VOCABULARY)
    paths = sorted(map(str, pairs.parent.glob("*.png")))
    pixels = np.stack([read_pixels(path, model.image_size) for path in paths])
    for _ in range(6):
        model.image_encoder(pixels, training=True)
    return model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def exported(align, pairs, tmp_path_factory):
    """Folder that `align-keras export` writes with quantization to int8."""
    folder = tmp_path_factory.mktemp("exported")
    data = str(pairs)
    export_model(align, folder, "litert", quantize="int8", images=data, data=data)
    assert (folder / "README.md").is_file()
    return folder


def test_figures_match_the_files(align, pairs, exported):
    from align_keras.export.litert_file import LiteRTTower

    figures = json.loads((exported / "figures.json").read_text(encoding="utf-8"))
    keras, none, int8 = figures["towers"]
    names = [row["name"] for row in (keras, none, int8)]
    assert names == ["Keras", "none", "int8"]
    content = (exported / "image.tflite").read_bytes()
    tower = LiteRTTower(content)
    paths = [
        str(pairs.parent / f"{color}_{shape}.png")
        for color in COLORS
        for shape in SHAPES
    ]
    embeddings = np.concatenate(
        [tower(images=read_pixels(path, align.image_size)[None]) for path in paths]
    )
    assert int8["megabytes"] == len(content) / 1e6
    cosines = np.sum(embeddings * align.encode_images(paths), axis=1)
    np.testing.assert_allclose(int8["cosine"], [cosines.mean(), cosines.min()], 1e-5)
    # Recall by brute force. Ties count as misses. Captions that are truncated to the
    # same eight tokens are ties.
    texts = [f"a {color} {shape}" for color in COLORS for shape in SHAPES]
    text_scores = align.encode_texts(texts).astype("float64") @ embeddings.T
    for direction, scores in (("t2i", text_scores), ("i2t", text_scores.T)):
        ranks = (scores >= np.diag(scores)[:, None]).sum(axis=1) - 1
        for k in (1, 10):
            recall = int8["recall"][f"{direction}/recall_at_{k}"]
            assert recall == np.mean(ranks < k)
    assert none["recall"] == keras["recall"]
    assert len(int8["milliseconds"]) == 2
    assert min(int8["milliseconds"]) > 0


@pytest.mark.parametrize("kind", ["exported", "resizable"])
def test_the_python_example_computes_the_cosines_of_the_model(
    align, pairs, request, kind, tmp_path
):
    # The image is large and wide, so that an error of the resize shows.
    image = tmp_path / "image.png"
    Image.open(pairs.parent / "red_ring.png").resize((200, 150)).save(image)
    script = request.getfixturevalue(kind) / "example.py"
    process = subprocess.run(
        [sys.executable, script, image, *TEXTS], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    lines = [line.split(" ", 1) for line in process.stdout.splitlines()]
    assert [text for _, text in lines] == TEXTS
    expected = align.encode_texts(TEXTS) @ align.encode_images([str(image)])[0]
    # The tolerance allows for int8 encoders, and for the rounding of Pillow.
    cosines = [float(value) for value, _ in lines]
    np.testing.assert_allclose(cosines, expected, atol=0.1)


def test_the_python_example_reads_images_as_the_package_does(exported, tmp_path):
    read = runpy.run_path(str(exported / "example.py"))["read_pixels"]
    metadata = read_tower_metadata((exported / "image.tflite").read_bytes())
    preprocessing = metadata["preprocessing"]
    for name, (content, pixels) in readable_files().items():
        # Pillow decodes this file differently.
        if name == "GIF, smaller than its screen":
            continue
        (tmp_path / "file").write_bytes(content)
        actual = read(tmp_path / "file", preprocessing)[0]
        expected = preprocess_image(tf.constant(pixels), 32)
        assert np.abs(actual - expected).max() <= 1, name
    for content in refused_files().values():
        (tmp_path / "file").write_bytes(content)
        # Pillow can read compressed bitmaps.
        if not content.startswith(b"BM"):
            with pytest.raises((OSError, Image.DecompressionBombWarning)):
                read(tmp_path / "file", preprocessing)


def test_the_python_example_reports_an_unreadable_image_in_one_line(exported, tmp_path):
    (tmp_path / "page.jpg").write_text("<html>")
    command = [sys.executable, exported / "example.py", tmp_path / "page.jpg", "bars"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert "page.jpg: " in process.stderr


@pytest.fixture(scope="module")
def c_example(exported, tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    package = importlib.util.find_spec("ai_edge_litert").submodule_search_locations[0]
    if not pathlib.Path(package, "libLiteRt.so").exists():
        pytest.skip("ai-edge-litert has no libLiteRt.so")
    program = tmp_path_factory.mktemp("c") / "example"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", f"-L{package}"]
    link = ["-l:libLiteRt.so", f"-Wl,-rpath,{package}"]
    source = str(exported / "example.c")
    subprocess.run([compiler, source, "-o", program, *flags, *link], check=True)
    return program


def run(program, *arguments):
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def without_images(align, tmp_path_factory):
    """Folder of an export without images, and the messages of the export."""
    folder = tmp_path_factory.mktemp("resizable")
    messages = io.StringIO()
    with contextlib.redirect_stderr(messages):
        export_litert(align, folder, resizable=True)
    return folder, messages.getvalue()


@pytest.fixture(scope="module")
def resizable(without_images):
    return without_images[0]


@pytest.mark.parametrize("kind", ["exported", "resizable"])
def test_the_c_example_computes_the_embeddings_of_python(
    align, pairs, request, kind, c_example, tmp_path
):
    from align_keras.export.litert_file import LiteRTTower

    folder = request.getfixturevalue(kind)
    image = folder / "image.tflite"
    text = folder / "text.tflite"
    pixels = read_pixels(str(pairs.parent / "red_ring.png"), align.image_size)
    if kind == "resizable":
        pixels = np.concatenate([pixels, pixels[:, :9]], axis=1)
    Image.fromarray(pixels.astype("uint8")).save(tmp_path / "image.ppm")
    process = run(c_example, image, tmp_path / "image.ppm")
    assert process.returncode == 0, process.stderr
    expected = LiteRTTower(image.read_bytes())(images=pixels[None])[0]
    np.testing.assert_allclose(np.fromstring(process.stdout, sep="\n"), expected, 1e-5)

    token_batch = align.tokenizer(TEXTS[:1])
    tokens = {name: np.asarray(values) for name, values in token_batch.items()}
    ids = tokens["token_ids"][0][tokens["padding_mask"][0] > 0]
    process = run(c_example, text, *ids)
    assert process.returncode == 0, process.stderr
    expected = LiteRTTower(text.read_bytes())(**tokens)[0]
    np.testing.assert_allclose(np.fromstring(process.stdout, sep="\n"), expected, 1e-5)


def test_the_c_example_reports_invalid_input(exported, c_example, tmp_path):
    Image.new("RGB", (8, 9)).save(tmp_path / "small.ppm")
    (tmp_path / "page.ppm").write_text("<html>")
    (tmp_path / "cut.ppm").write_bytes(b"P6 32 32 255\n12")
    for name, message in (
        ("small.ppm", "32 x 32 pixels. Received: 8 x 9."),
        ("page.ppm", "must be a PPM"),
        ("cut.ppm", "file is truncated"),
        ("none.ppm", "Cannot open"),
    ):
        process = run(c_example, exported / "image.tflite", tmp_path / name)
        assert process.returncode == 1
        assert message in process.stderr
    process = run(c_example, exported / "text.tflite", *range(100))
    assert process.returncode == 1
    assert "sequence length" in process.stderr
    process = run(c_example, tmp_path / "page.ppm", tmp_path / "page.ppm")
    assert process.returncode == 1
    assert "a LiteRT model" in process.stderr


def test_without_images_there_are_no_figures(without_images):
    folder, messages = without_images
    assert {path.name for path in folder.iterdir()} == {
        "image.tflite",
        "text.tflite",
        "example.py",
        "example.c",
    }
    assert "Nothing was measured" in messages


def test_a_data_set_calibrates_with_its_training_split(pairs, monkeypatch, capsys):
    paths = [str(path) for path in sorted(pairs.parent.glob("*.png"))]

    def read_images(corpus, split):
        if split not in splits:
            raise InputError(f"split must be one of test, received {split}.")
        return [StoredImage(path, path, (), "", path) for path in splits[split]]

    monkeypatch.setattr(datasets, "open_corpus", lambda name: name)
    monkeypatch.setattr(benchmarks, "read_stored_images", read_images)
    splits = {"train": paths[1:], "test": paths[:1]}
    assert calibration_images("icons") == paths[1:]
    splits = {"test": paths[:3]}
    capsys.readouterr()
    assert calibration_images("stamps") == paths[:3]
    error = capsys.readouterr().err
    assert "stamps has no" in error and "test images" in error


def test_options_of_tables_and_folders_are_used(pairs, tmp_path):
    shutil.copy(pairs.parent / "red_ring.png", tmp_path)
    (tmp_path / "red_ring.txt").write_text("rød ring", encoding="latin-1")
    table = tmp_path / "table.csv"
    table.write_text("foto,words\nred_ring.png,rød ring\n", encoding="latin-1")
    options = {
        "encoding": "latin-1",
        "image_column": "foto",
        "caption_column": "words",
    }
    images = [str(tmp_path / "red_ring.png")]
    assert calibration_images(str(tmp_path), **options) == images
    assert retrieval_pairs(str(table), **options).images == images


def test_a_folder_calibrates_without_captions(pairs, tmp_path):
    (tmp_path / "inner").mkdir()
    shutil.copy(pairs.parent / "red_ring.png", tmp_path / "inner")
    images = [str(tmp_path / "inner" / "red_ring.png")]
    assert calibration_images(str(tmp_path)) == images
    (tmp_path / "inner" / "red_ring.png").unlink()
    with pytest.raises(InputError, match="must contain images"):
        calibration_images(str(tmp_path))


def test_unreadable_images_are_skipped(align, pairs, tmp_path):
    from align_keras.export.litert import image_flatbuffer

    (tmp_path / "page.png").write_text("<html>")
    files = {"none": image_flatbuffer(align)}
    images = [str(tmp_path / "page.png"), str(pairs.parent / "red_ring.png")]
    keras, none = measure(align, files, images)
    assert none.cosine[1] > 0.99999
    with pytest.raises(InputError, match="page.png"):
        measure(align, files, images[:1])


# === Errors ===


@pytest.mark.parametrize("option", ["images", "data"])
def test_missing_images_are_reported_before_the_conversion(align, tmp_path, option):
    with pytest.raises(InputError, match="'nowhere'"):
        export_litert(align, tmp_path, **{option: "nowhere"})
    assert not list(tmp_path.iterdir())
