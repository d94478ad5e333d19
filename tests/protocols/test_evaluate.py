"""`align_keras.evaluate`: the command's results in Python, and what it refuses."""

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
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluate")
    small_align().save_to_preset(place / "run")
    write_pairs(place / "pairs")
    return place


@pytest.mark.ci
def test_python_and_the_command_find_the_same(place, capsys):
    model, data = str(place / "run"), str(place / "pairs" / "pairs.jsonl")
    options = ["--model", model, "--data", data, "--cache", str(place / "cache")]
    assert main(["evaluate", "retrieval", *options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    html, cache = place / "page.html", place / "cache"
    found = align_keras.evaluate(model, "retrieval", data, html=html, cache=cache)
    assert found == printed and html.exists()
    # Models in memory have the same embeddings, and so the same cache.
    align = align_keras.ALIGN.from_preset(model)
    folders = sorted(path.name for path in cache.iterdir())
    for in_memory in (align, load_model(align)):
        again = align_keras.evaluate(in_memory, "retrieval", data, cache=cache)
        assert again["metrics"] == printed["metrics"] and again["model"] == align.name
    assert sorted(path.name for path in cache.iterdir()) == folders


@pytest.mark.parametrize(
    "protocol, options, message",
    [
        ("retreival", {}, "protocol must be one of .* did you mean retrieval"),
        ("knn", {"templets": "x"}, "knn has no argument 'templets'.*'templates'"),
        ("knn", {"data": "x", "templates": "x"}, "`templates` is for zero_shot, rec"),
        ("knn", {"data": "x", "split": ""}, "split must not be empty"),
        ("knn", {}, "data must name what knn is measured on.*a TFDS data set"),
        (
            "vtab",
            {"workers": 0},
            "workers must be a whole number from 1 to .*. Received: workers=0",
        ),
        ("composed", {"text_weight": -1.0}, "text_weight must be a number from 0"),
        ("knn", {"data": "x", "metadata": "m"}, "`metadata` is for `slice_by`"),
    ],
)
def test_what_is_refused_before_anything_is_read(protocol, options, message):
    with pytest.raises(InputError, match=message):
        checked_request(protocol, **options)


def test_defaults_of_a_request():
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
    chosen = [trials.Trial("", "train", "test", recipe, seed) for seed in range(2)]
    request = checked_request("vtab", workers=2, results=str(tmp_path))
    with pytest.raises(InputError, match="model must be a path with `workers`"):
        trials.finished(chosen, data, model, request)


# --- Versions of what stands on disk. Where one of these fails, the version beside the
# code is to be raised, and the numbers here with it. ---


def test_token_ids_of_this_version():
    from align_keras.text import WordPieceTokenizer
    from align_keras.text.wordpiece_tokenizer import TOKENIZATION_VERSION

    captions = ["A red CIRCLE, naïve", "ＦＵＬＬ\u00a0ΣΑΣ", "[MASK] 天気 e\u0301", ""]
    vocabulary = [*VOCABULARY, "naive", "circle", "full", "σας", "天", "é"]
    found = []
    for normalization in ("bert_uncased", "bert_cased"):
        tokenizer = WordPieceTokenizer(vocabulary, 8, normalization)
        found.append(np.asarray(tokenizer(captions)["token_ids"]).tolist())
    assert TOKENIZATION_VERSION == 1
    assert found[0] == [
        [2, 5, 22, 35, 34, 58, 1, 3],
        [2, 1, 1, 3, 0, 0, 0, 0],
        [2, 4, 61, 1, 9, 3, 0, 0],
        [2, 3, 0, 0, 0, 0, 0, 0],
    ]
    assert found[1] == [
        [2, 1, 22, 35, 34, 1, 1, 3],
        [2, 1, 1, 3, 0, 0, 0, 0],
        [2, 4, 61, 1, 1, 3, 0, 0],
        [2, 3, 0, 0, 0, 0, 0, 0],
    ]


def test_pixels_of_this_version():
    import tensorflow as tf

    from align_keras.images.preprocess import (
        PREPROCESSING_VERSION,
        preprocess_image_bytes,
    )

    rows, columns = np.indices((37, 53))
    pixels = np.stack([7 * rows, 5 * columns, rows * columns], axis=-1).astype(np.uint8)
    image = preprocess_image_bytes(tf.io.encode_png(pixels), 32)
    found = np.asarray(image, float)[::11, ::11].reshape(-1, 3).T
    # Processors round differently.
    assert PREPROCESSING_VERSION == 1
    expected = [
        [20, 20, 20, 95, 95, 95, 170, 170, 170],
        [22, 99, 175, 22, 99, 175, 22, 99, 175],
        [13, 57, 102, 60, 47, 221, 108, 218, 85],
    ]
    np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.ci
def test_what_trials_learn_from_of_this_version():
    """Crops, mirrors and their order: where the right half is white."""
    import tensorflow as tf

    from align_keras.data import labeled_batches
    from align_keras.models import ALIGNImageConverter
    from align_keras.protocols.trials import TRIALS_VERSION

    tf.random.set_seed(0)  # Which other tests may have set.
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
    found = np.asarray(pixels, float)[..., 0].mean(axis=1)[:, ::10]
    assert TRIALS_VERSION == 1
    assert np.asarray(labels).tolist() == [1, 0, 5, 4, 2, 3, 4, 3, 1, 5, 2, 0]
    expected = [[255, 255, 236, 10], [255, 255, 0, 0], [50, 255, 255, 255]]
    np.testing.assert_allclose(found[:3], expected, atol=2)
