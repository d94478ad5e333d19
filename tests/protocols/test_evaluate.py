"""Tests of `align_keras.evaluate`: equal results to the command, and its errors."""

import json

import numpy as np
import pytest

import align_keras
from align_keras import load_model
from align_keras.cli.main import main
from align_keras.protocols.run_protocol import PROTOCOLS, checked_request
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_align
from tests.helpers.small_run import write_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    small_align().save_to_preset(folder / "run")
    write_pairs(folder / "pairs")
    return folder


@pytest.mark.ci
def test_python_and_the_command_have_equal_results(folder, capsys):
    model = str(folder / "run")
    data = str(folder / "pairs" / "pairs.jsonl")
    cache = folder / "cache"
    options = ["--model", model, "--data", data, "--cache", str(cache)]
    assert main(["evaluate", "retrieval", *options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    html = folder / "page.html"
    result = align_keras.evaluate(model, "retrieval", data, html=html, cache=cache)
    assert result == printed
    assert html.exists()
    # A model in memory has the same fingerprint, and therefore uses the same cache.
    align = align_keras.ALIGN.from_preset(model)
    folders = sorted(path.name for path in cache.iterdir())
    for in_memory in (align, load_model(align)):
        repeated = align_keras.evaluate(in_memory, "retrieval", data, cache=cache)
        assert repeated["metrics"] == printed["metrics"]
        assert repeated["model"] == align.name
    assert sorted(path.name for path in cache.iterdir()) == folders


@pytest.mark.parametrize(
    "protocol, options, word",
    [
        ("retreival", {}, "retrieval"),
        ("knn", {"templets": "x"}, "templates"),
        ("knn", {"data": "x", "templates": "x"}, "zero_shot"),
        ("knn", {"data": "x", "split": ""}, "split"),
        ("knn", {}, "data"),
        ("vtab", {"workers": 0}, "workers"),
        ("composed", {"text_weight": -1.0}, "text_weight"),
    ],
)
def test_invalid_options_are_refused_before_data_are_read(protocol, options, word):
    with pytest.raises(InputError, match=word):
        checked_request(protocol, **options)


def test_a_request_has_the_defaults_of_its_protocol():
    request = checked_request("multi30k", split=None, slice_by="category")
    assert (request.data, request.data_root, request.templates) == (
        "multi30k",
        "data",
        "default",
    )
    assert all(protocol.data_help for protocol in PROTOCOLS.values())


def test_processes_need_a_model_on_disk(tmp_path, monkeypatch):
    from unittest import mock

    from align_keras.protocols import trials

    model = mock.Mock(image_fingerprint="m", path=None)
    data = mock.Mock(identity=lambda task: "d")
    recipe = align_keras.config.load_recipe("fine_grained")
    two_trials = [trials.Trial("", "train", "test", recipe, seed) for seed in range(2)]
    request = checked_request("vtab", workers=2, results=str(tmp_path))
    with pytest.raises(InputError, match="workers"):
        trials.finished(two_trials, data, model, request)


# === Versions of cached results ===
# A failure means that the code computes other values than the results on disk. Increase
# the version constant of the code, and update the version and the values in the test.


def test_token_ids_match_the_tokenization_version():
    from align_keras.text import WordPieceTokenizer
    from align_keras.text.wordpiece_tokenizer import TOKENIZATION_VERSION

    captions = ["A red CIRCLE, naïve", "ＦＵＬＬ\u00a0ΣΑΣ", "[MASK] 天気 e\u0301", ""]
    vocabulary = [*VOCABULARY, "naive", "circle", "full", "σας", "天", "é"]
    token_ids = {}
    for normalization in ("bert_uncased", "bert_cased"):
        tokenizer = WordPieceTokenizer(vocabulary, 8, normalization)
        batch = tokenizer(captions)["token_ids"]
        token_ids[normalization] = np.asarray(batch).tolist()
    assert TOKENIZATION_VERSION == 1
    assert token_ids["bert_uncased"] == [
        [2, 5, 22, 35, 34, 58, 1, 3],
        [2, 1, 1, 3, 0, 0, 0, 0],
        [2, 4, 61, 1, 9, 3, 0, 0],
        [2, 3, 0, 0, 0, 0, 0, 0],
    ]
    assert token_ids["bert_cased"] == [
        [2, 1, 22, 35, 34, 1, 1, 3],
        [2, 1, 1, 3, 0, 0, 0, 0],
        [2, 4, 61, 1, 1, 3, 0, 0],
        [2, 3, 0, 0, 0, 0, 0, 0],
    ]


def test_pixels_match_the_preprocessing_version():
    import tensorflow as tf

    from align_keras.images.preprocess import (
        PREPROCESSING_VERSION,
        preprocess_image_bytes,
    )

    rows, columns = np.indices((37, 53))
    pixels = np.stack([7 * rows, 5 * columns, rows * columns], axis=-1).astype(np.uint8)
    image = preprocess_image_bytes(tf.io.encode_png(pixels), 32)
    actual = np.asarray(image, float)[::11, ::11].reshape(-1, 3).T
    # The tolerance of one level allows for the rounding of different processors.
    assert PREPROCESSING_VERSION == 1
    expected = [
        [20, 20, 20, 95, 95, 95, 170, 170, 170],
        [22, 99, 175, 22, 99, 175, 22, 99, 175],
        [13, 57, 102, 60, 47, 221, 108, 218, 85],
    ]
    np.testing.assert_allclose(actual, expected, atol=1)


@pytest.mark.ci
def test_training_batches_match_the_trials_version():
    """Crops and flips are visible in images whose right half is white."""
    import tensorflow as tf

    from align_keras.data import labeled_batches
    from align_keras.models import ALIGNImageConverter
    from align_keras.protocols.trials import TRIALS_VERSION

    # Other tests may have set the global seed.
    tf.random.set_seed(0)
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 255
    images = [np.maximum(image, 10 * row) for row in range(6)]
    batches = labeled_batches(
        images,
        np.arange(6),
        ALIGNImageConverter(32, crop="inception"),
        batch_size=12,
        shuffle_buffer_size=6,
        seed=3,
    )
    pixels, labels = next(iter(batches))
    brightness = np.asarray(pixels, float)[..., 0].mean(axis=1)[:, ::10]
    assert TRIALS_VERSION == 1
    assert np.asarray(labels).tolist() == [1, 0, 5, 4, 2, 3, 4, 3, 1, 5, 2, 0]
    expected = [[255, 255, 236, 10], [255, 255, 0, 0], [50, 255, 255, 255]]
    np.testing.assert_allclose(brightness[:3], expected, atol=2)
