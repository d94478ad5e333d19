"""CLIP_benchmark with models of this package measures the figures of the protocols."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import yaml

import align_keras
from align_keras.embedders.clip_benchmark_model import with_runtimes
from align_keras.embedders.image_transforms import (
    ResizeSquare,
    ResizeSquareAsTensorflow,
)
from align_keras.embedders.pixels import transformed_pixels
from align_keras.images import resize_image
from tests.helpers.oracle_process import needs
from tests.helpers.public_benchmarks import stamps, write_class_shards, write_shards
from tools import check_published

ROOT = pathlib.Path(__file__).parents[2]
MODULE = "align_keras.embedders.clip_benchmark_model"
PROMPTS = ["a drawing of {c}.", "a photo of {c}"]
# CLIP_benchmark infers the task of a data set from its name.
NAMES = ["wds/flickr8k", "wds/stamps"]


def test_results_name_the_runtime_of_each_model(tmp_path):
    """CLIP_benchmark writes the second part of `--pretrained_model` to its results."""
    litert = tmp_path / "litert"
    litert.mkdir()
    (litert / "text.tflite").touch()
    models = ["--model", "align_small_en", str(litert)]
    assert with_runtimes(models)[len(models) :] == [
        "--pretrained_model",
        "align_small_en,keras",
        f"{litert},litert",
    ]
    options = ["--model", "align_small_en", "--pretrained", "auto"]
    assert with_runtimes(options)[-1] == "align_small_en,litert"
    for options in (["--help"], ["--pretrained_model", "align_small_en,litert"]):
        assert with_runtimes(options) == options


def test_the_pixels_of_a_keras_model_are_those_of_tensorflow():
    generator = np.random.default_rng(0)
    for shape in ((300, 211, 3), (50, 90, 3)):
        noise = generator.integers(0, 256, shape, np.uint8)
        expected = resize_image(noise, 172).numpy()
        exact = transformed_pixels(noise, ResizeSquareAsTensorflow(172))
        assert np.mean(exact != expected) < 2e-3
        rounded = transformed_pixels(noise, ResizeSquare(172))
        assert np.mean(rounded != expected) > 0.02


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small data sets of stamps in the two layouts."""
    root = tmp_path_factory.mktemp("clip_benchmark")
    images, captions, categories = zip(*stamps(), strict=True)
    english = [texts["en"] for texts in captions]
    pairs = [[text, f"a picture of {text}"] for text in english]
    write_shards(root / "flickr8k", images, pairs)
    names = sorted(set(categories))
    labels = [names.index(category) for category in categories]
    write_class_shards(root / "stamps", images, labels, names, PROMPTS)
    return root


@pytest.fixture(
    scope="module", params=["litert", pytest.param("keras", marks=pytest.mark.release)]
)
def runtime(request):
    return request.param


@pytest.fixture(scope="module")
def figures(data, runtime):
    """Metrics of CLIP_benchmark's command by data set."""
    options = {
        "--model": ["align_small_en"],
        "--pretrained": [runtime],
        "--dataset": NAMES,
        "--dataset_root": [f"{data}/{{dataset_cleaned}}"],
        "--recall_k": ["1", "5", "10"],
        "--num_workers": ["0"],
        "--output": [f"{data}/{{dataset}}.json"],
    }
    command = [sys.executable, "-m", MODULE, "eval", "--quiet"]
    for name, values in options.items():
        command += [name, *values]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    results = {
        name: json.loads((data / f"{name.removeprefix('wds/')}.json").read_text())
        for name in NAMES
    }
    assert {result["pretrained"] for result in results.values()} == {runtime}
    return {name: result["metrics"] for name, result in results.items()}


def measured(data, protocol, folder, cache, runtime):
    result = align_keras.evaluate(
        "align_small_en", protocol, str(data / folder), cache=cache, runtime=runtime
    )
    return result["metrics"]


@pytest.mark.ci
@needs("torch", "clip_benchmark", "webdataset")
@pytest.mark.skipif(
    not pathlib.Path("/usr/share/tuxpaint/stamps").exists(),
    reason="needs tuxpaint-stamps-default",
)
def test_figures_are_equal_to_four_digits(data, figures, runtime, tmp_path, capsys):
    cache = tmp_path / "cache"
    metrics = measured(data, "retrieval", "flickr8k", cache, runtime)
    for k in (1, 5, 10):
        for direction, kind in (("t2i", "image"), ("i2t", "text")):
            expected = figures["wds/flickr8k"][f"{kind}_retrieval_recall@{k}"]
            value = metrics[f"{direction}/recall_at_{k}"]
            assert value == pytest.approx(expected, abs=5e-5)
            assert 0 < value < 1
    classes = measured(data, "zero_shot", "stamps", cache, runtime)
    for metric, key in (
        ("top_1", "acc1"),
        ("top_5", "acc5"),
        ("mean_per_class", "mean_per_class_recall"),
    ):
        expected = figures["wds/stamps"][key]
        assert classes[f"zero_shot/{metric}"] == pytest.approx(expected, abs=5e-5)
        assert 0 < expected < 1
    _check_published(data, figures, runtime, cache, tmp_path, capsys)


def _check_published(data, figures, runtime, cache, tmp_path, capsys):
    """Compares the figures of CLIP_benchmark by tools/check_published.py."""
    entries = [
        {
            "name": "recall",
            "value": figures["wds/flickr8k"]["image_retrieval_recall@5"],
            "folder": {
                "protocol": "retrieval",
                "data": str(data / "flickr8k"),
                "metric": "t2i/recall_at_5",
            },
        },
        {
            "name": "accuracy",
            "value": figures["wds/stamps"]["acc1"],
            "folder": {
                "protocol": "zero_shot",
                "data": str(data / "stamps"),
                "metric": "zero_shot/top_1",
            },
        },
    ]
    for entry in entries:
        entry |= {"tolerance": 5e-5, "source": "clip_benchmark"}
    path = tmp_path / "figures.yaml"
    path.write_text(yaml.safe_dump(entries))
    command = [
        "--model=align_small_en",
        f"--figures={path}",
        f"--cache={cache}",
        f"--runtime={runtime}",
        "--from-folders",
    ]
    assert check_published.main(command) == 0
    entries[1]["value"] += 0.01
    path.write_text(yaml.safe_dump(entries))
    assert check_published.main(command) == 1
    output = capsys.readouterr().out
    assert output.count("agrees") == 3 and output.count("differs") == 1
