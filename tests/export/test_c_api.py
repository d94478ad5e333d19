"""Calls of exports through TensorFlow's C API.

TensorFlow Serving calls the same C++ library. It is not available as a Python package.
"""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from tests.export.c_process import (
    SCRIPT,
    TOLERANCE,
    call_outputs,
    image_files_of_all_formats,
    strings,
)
from tests.export.export_inputs import CAPTIONS


@pytest.fixture(scope="module")
def files():
    return image_files_of_all_formats()


def cosines(images, texts):
    return np.asarray(images) @ np.asarray(texts).T


@pytest.mark.release
@pytest.mark.parametrize("name", ["image", "align"])
def test_image_embeddings_equal_those_of_keras(model, folder, files, name):
    pixels = np.random.default_rng(2).integers(0, 256, (2, 45, 77, 3), np.uint8)
    from_files, from_pixels = call_outputs(
        folder,
        name,
        [
            ("encode_image", {"image_bytes": strings(files)}),
            ("encode_image_pixels", {"images": pixels}),
        ],
    )
    expected = model.encode_images(files)
    # The comparison would prove nothing if all embeddings were equal.
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    np.testing.assert_allclose(
        from_files["image_embedding"], expected, rtol=0, atol=TOLERANCE
    )
    assert from_files["valid"].tolist() == [True] * len(files)
    np.testing.assert_allclose(
        from_pixels["image_embedding"],
        model.encode_images(list(pixels)),
        rtol=0,
        atol=TOLERANCE,
    )


@pytest.mark.release
@pytest.mark.parametrize("name", ["text", "align"])
def test_text_embeddings_equal_those_of_keras(model, folder, name):
    tokens = model.tokenizer(CAPTIONS).items()
    tokens = {key: np.asarray(values, np.int32) for key, values in tokens}
    by_captions, by_default, by_tokens = call_outputs(
        folder,
        name,
        [
            ("encode_text", {"captions": strings(CAPTIONS)}),
            ("serving_default", {"captions": strings(CAPTIONS)}),
            ("encode_token_ids", tokens),
        ],
    )
    expected = model.encode_texts(CAPTIONS)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    for outputs in (by_captions, by_default, by_tokens):
        np.testing.assert_allclose(
            outputs["text_embedding"], expected, rtol=0, atol=TOLERANCE
        )


@pytest.mark.release
def test_similarities_and_scores_equal_those_of_keras(model, folder, files):
    names = ["cat", "dog"]
    templates = ["a {}", "the {} there"]
    inputs = {"image_bytes": strings([*files, b"not an image"])}
    compared, classified = call_outputs(
        folder,
        "align",
        [
            ("similarity", {**inputs, "captions": strings(CAPTIONS)}),
            (
                "classify",
                {
                    **inputs,
                    "class_names": strings(names),
                    "templates": strings(templates),
                },
            ),
        ],
    )
    images = model.encode_images(files)
    for outputs in (compared, classified):
        assert outputs["valid"].tolist() == [True] * len(files) + [False]
    np.testing.assert_allclose(
        compared["cosine"][:-1],
        cosines(images, model.encode_texts(CAPTIONS)),
        rtol=0,
        atol=TOLERANCE,
    )
    classes = []
    for name in names:
        prompts = [template.replace("{}", name) for template in templates]
        mean = model.encode_texts(prompts).mean(axis=0)
        classes.append(mean / np.linalg.norm(mean))
    logits = cosines(images, classes) / float(model.temperature)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        classified["scores"][:-1], scores, rtol=0, atol=TOLERANCE
    )


@pytest.mark.release
def test_only_models_with_texts_need_text_operations(model, folder, files):
    images = ("encode_image", {"image_bytes": strings(files)})
    captions = ("encode_text", {"captions": strings(CAPTIONS)})
    for name, calls in (
        ("image", [images]),
        ("text", [captions]),
        ("align", [captions]),
    ):
        result = subprocess.run(
            [sys.executable, SCRIPT, folder / "export" / name / "1"],
            input=pickle.dumps(calls),
            capture_output=True,
        )
        assert result.returncode == 0, result.stderr.decode(errors="replace")
        ((outputs, _),) = pickle.loads(result.stdout)
        if name == "image":
            assert outputs["valid"].all()
        else:
            assert "not registered" in outputs
