"""LiteRT files of an export, their examples and their table."""

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
from align_keras.datasets.benchmarks.labeled_images import StoredImage
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
from tests.helpers.image_files import readable, refused
from tests.helpers.small_run import COLORS, SHAPES, write_pairs

pytest.importorskip("litert_quantizer", reason="litert-quantizer isn't installed")

# Their models and files take minutes to make.
pytestmark = pytest.mark.ci

TEXTS = ["a red ring", "bars", "a green cross"]


@pytest.fixture(scope="module")
def align(small_model):
    from align_keras.models import ALIGN

    return ALIGN.from_preset(small_model)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def exported(align, pairs, tmp_path_factory):
    """As the command writes them, with their card."""
    folder = tmp_path_factory.mktemp("exported")
    data = str(pairs)
    export_model(align, folder, "litert", quantize="int8", images=data, data=data)
    assert (folder / "README.md").is_file()
    return folder


def test_figures_are_those_of_the_files(align, pairs, exported):
    from align_keras.export.litert_file import LiteRTTower

    figures = json.loads((exported / "figures.json").read_text(encoding="utf-8"))
    names = [own["name"] for own in figures["towers"]]
    assert names == ["Keras", "none", "int8"]
    content = (exported / "image.tflite").read_bytes()
    tower = LiteRTTower(content)
    paths = [
        str(pairs.parent / f"{color}_{shape}.png")
        for color in COLORS
        for shape in SHAPES
    ]
    found = np.concatenate(
        [tower(images=read_pixels(path, align.image_size)[None]) for path in paths]
    )
    keras, none, own = figures["towers"]
    assert own["megabytes"] == len(content) / 1e6
    cosines = np.sum(found * align.encode_images(paths), axis=1)
    np.testing.assert_allclose(own["cosine"], [cosines.mean(), cosines.min()], 1e-5)
    # By brute force: each caption's own picture among the k nearest. Ties count as
    # misses; captions that are cut to the same eight tokens have them.
    texts = [f"a {color} {shape}" for color in COLORS for shape in SHAPES]
    scores = align.encode_texts(texts).astype("float64") @ found.T
    for way, own_scores in (("t2i", scores), ("i2t", scores.T)):
        better = (own_scores >= np.diag(own_scores)[:, None]).sum(axis=1) - 1
        for k in (1, 10):
            assert own["recall"][f"{way}/recall_at_{k}"] == np.mean(better < k)
    assert none["recall"] == keras["recall"]
    assert len(own["milliseconds"]) == 2 and min(own["milliseconds"]) > 0


@pytest.mark.parametrize("kind", ["exported", "resizable"])
def test_python_example_compares_as_the_model_does(
    align, pairs, request, kind, tmp_path
):
    # Large and wide, so that the resize shows.
    picture = tmp_path / "picture.png"
    Image.open(pairs.parent / "red_ring.png").resize((200, 150)).save(picture)
    answer = subprocess.run(
        [sys.executable, request.getfixturevalue(kind) / "example.py", picture, *TEXTS],
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    lines = [line.split(" ", 1) for line in answer.stdout.splitlines()]
    assert [words for _, words in lines] == TEXTS
    expected = align.encode_texts(TEXTS) @ align.encode_images([str(picture)])[0]
    # Both towers are in integers here, and Pillow rounds other than TensorFlow.
    found = [float(value) for value, _ in lines]
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_the_python_example_reads_by_the_one_rule(exported, tmp_path):
    read = runpy.run_path(str(exported / "example.py"))["read_pixels"]
    about = read_tower_metadata((exported / "image.tflite").read_bytes())[
        "preprocessing"
    ]
    for name, (content, pixels) in readable().items():
        if name == "GIF, smaller than its screen":  # Pillow alone shows it otherwise.
            continue
        (tmp_path / "file").write_bytes(content)
        found = read(tmp_path / "file", about)[0]
        expected = preprocess_image(tf.constant(pixels), 32)
        assert np.abs(found - expected).max() <= 1, name
    for content in refused().values():
        (tmp_path / "file").write_bytes(content)
        if not content.startswith(b"BM"):  # It reads a bitmap that is compressed.
            with pytest.raises((OSError, Image.DecompressionBombWarning)):
                read(tmp_path / "file", about)


def test_the_python_example_refuses_in_one_line(exported, tmp_path):
    (tmp_path / "page.jpg").write_text("<html>")
    command = [sys.executable, exported / "example.py", tmp_path / "page.jpg", "bars"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2 and "Traceback" not in answer.stderr
    assert "page.jpg: cannot identify image file" in answer.stderr


@pytest.fixture(scope="module")
def c_example(exported, tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    package = importlib.util.find_spec("ai_edge_litert").submodule_search_locations[0]
    if not pathlib.Path(package, "libLiteRt.so").exists():
        pytest.skip("ai-edge-litert has no libLiteRt.so here")
    program = tmp_path_factory.mktemp("c") / "example"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", f"-L{package}"]
    link = ["-l:libLiteRt.so", f"-Wl,-rpath,{package}"]
    source = str(exported / "example.c")
    subprocess.run([compiler, source, "-o", program, *flags, *link], check=True)
    return program


def run(program, *words):
    return subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def without_images(align, tmp_path_factory):
    """An export's folder, and what it said."""
    folder, said = tmp_path_factory.mktemp("resizable"), io.StringIO()
    with contextlib.redirect_stderr(said):
        export_litert(align, folder, resizable=True)
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def resizable(without_images):
    return without_images[0]


@pytest.mark.parametrize("kind", ["exported", "resizable"])
def test_c_example_embeds_as_python_does(
    align, pairs, request, kind, c_example, tmp_path
):
    from align_keras.export.litert_file import LiteRTTower

    folder = request.getfixturevalue(kind)
    image, text = folder / "image.tflite", folder / "text.tflite"
    pixels = read_pixels(str(pairs.parent / "red_ring.png"), align.image_size)
    if kind == "resizable":
        pixels = np.concatenate([pixels, pixels[:, :9]], axis=1)
    Image.fromarray(pixels.astype("uint8")).save(tmp_path / "picture.ppm")
    answer = run(c_example, image, tmp_path / "picture.ppm")
    assert answer.returncode == 0, answer.stderr
    expected = LiteRTTower(image.read_bytes())(images=pixels[None])[0]
    np.testing.assert_allclose(np.fromstring(answer.stdout, sep="\n"), expected, 1e-5)

    tokens = {k: np.asarray(own) for k, own in align.tokenizer(TEXTS[:1]).items()}
    ids = tokens["token_ids"][0][tokens["padding_mask"][0] > 0]
    answer = run(c_example, text, *ids)
    assert answer.returncode == 0, answer.stderr
    expected = LiteRTTower(text.read_bytes())(**tokens)[0]
    np.testing.assert_allclose(np.fromstring(answer.stdout, sep="\n"), expected, 1e-5)


def test_c_example_names_what_is_wrong(exported, c_example, tmp_path):
    Image.new("RGB", (8, 9)).save(tmp_path / "small.ppm")
    (tmp_path / "page.ppm").write_text("<html>")
    (tmp_path / "cut.ppm").write_bytes(b"P6 32 32 255\n12")
    for name, message in (
        ("small.ppm", "must have 32 x 32 pixels. Received: 8 x 9."),
        ("page.ppm", "must be a PPM"),
        ("cut.ppm", "The image file is truncated."),
        ("none.ppm", "Cannot open the image."),
    ):
        answer = run(c_example, exported / "image.tflite", tmp_path / name)
        assert answer.returncode == 1
        assert message in answer.stderr
    answer = run(c_example, exported / "text.tflite", *range(100))
    assert answer.returncode == 1
    assert "exceeds the sequence length" in answer.stderr
    answer = run(c_example, tmp_path / "page.ppm", tmp_path / "page.ppm")
    assert answer.returncode == 1
    assert "Cannot read the file as a LiteRT model." in answer.stderr


def test_without_images_there_are_no_figures(without_images):
    folder, said = without_images
    assert {path.name for path in folder.iterdir()} == {
        "image.tflite",
        "text.tflite",
        "example.py",
        "example.c",
    }
    assert "nothing measured. Set images" in said


def test_pictures_alone_give_cosines(align, pairs, tmp_path, capfd):
    export_litert(align, tmp_path, images=str(pairs), license="CC0")
    printed = capfd.readouterr()
    assert "INFO" not in printed.err and "0000 00:00" not in printed.err  # Converters.
    assert printed.out.splitlines()[0].split()[-2:] == ["cosine", "least"]
    assert "Set data to measure recall on test pairs" in printed.err


def test_a_named_set_calibrates_with_what_it_has(pairs, monkeypatch, capsys):
    pictures = [str(path) for path in sorted(pairs.parent.glob("*.png"))]

    def read_images(corpus, split):
        if split not in splits:
            raise InputError(f"split must be one of test, received {split}.")
        return [StoredImage(path, path, (), "", path) for path in splits[split]]

    monkeypatch.setattr(datasets, "open_corpus", lambda name: name)
    monkeypatch.setattr(benchmarks, "read_stored_images", read_images)
    splits = {"train": pictures[1:], "test": pictures[:1]}
    assert calibration_images("clipart") == pictures[1:]
    splits = {"test": pictures[:3]}
    capsys.readouterr()
    assert calibration_images("stamps") == pictures[:3]
    assert (
        "stamps has no training split. Its test images are used for"
        in capsys.readouterr().err
    )


def test_a_folder_and_a_table(pairs, tmp_path):
    shutil.copy(pairs.parent / "red_ring.png", tmp_path)
    (tmp_path / "red_ring.txt").write_text("rød ring", encoding="latin-1")
    table = tmp_path / "table.csv"
    table.write_text("foto,words\nred_ring.png,rød ring\n", encoding="latin-1")
    read = {"encoding": "latin-1", "image_column": "foto", "caption_column": "words"}
    images = [str(tmp_path / "red_ring.png")]
    assert calibration_images(str(tmp_path), **read) == images
    assert retrieval_pairs(str(table), **read).images == images


def test_a_folder_calibrates_without_captions(pairs, tmp_path):
    (tmp_path / "inner").mkdir()
    shutil.copy(pairs.parent / "red_ring.png", tmp_path / "inner")
    images = [str(tmp_path / "inner" / "red_ring.png")]
    assert calibration_images(str(tmp_path)) == images
    (tmp_path / "inner" / "red_ring.png").unlink()
    with pytest.raises(InputError, match=r"must hold images \(.jpg"):
        calibration_images(str(tmp_path))


def test_a_picture_that_cannot_be_read_is_left_out(align, pairs, tmp_path):
    from align_keras.export.litert import image_flatbuffer

    (tmp_path / "page.png").write_text("<html>")
    files = {"none": image_flatbuffer(align)}
    images = [str(tmp_path / "page.png"), str(pairs.parent / "red_ring.png")]
    keras, none = measure(align, files, images)
    assert none.cosine[1] > 0.99999
    with pytest.raises(InputError, match="not a readable JPEG.*page.png"):
        measure(align, files, images[:1])


# === Errors ===


def test_integers_without_images_fail_at_once(tmp_path):
    with pytest.raises(InputError, match="quantize='int8' needs `images`"):
        export_litert(None, tmp_path, quantize="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["images", "data"])
def test_a_set_that_is_not_there_fails_before_converting(align, tmp_path, option):
    with pytest.raises(InputError, match=f"{option} must be .* 'nowhere'"):
        export_litert(align, tmp_path, **{option: "nowhere"})
    assert not list(tmp_path.iterdir())
