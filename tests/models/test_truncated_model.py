"""Tests of models with fewer components of the embeddings."""

import numpy as np
import pytest

from align_keras import ALIGN, load_model
from align_keras.cli.main import main
from align_keras.models import ImageEncoder, TextEncoder
from align_keras.models.truncated_model import truncate_model
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_align, small_batch


def first_components(embeddings, count):
    values = embeddings[:, :count]
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_a_truncated_model_computes_the_first_components():
    model = small_align(initial_temperature=0.3)
    truncated = truncate_model(model, 4)
    images = small_batch()["images"]
    texts = ["abc", "d e"]
    for actual, expected in (
        (truncated.encode_images(images), model.encode_images(images)),
        (truncated.encode_texts(texts), model.encode_texts(texts)),
    ):
        assert actual.shape[1] == 4
        np.testing.assert_allclose(actual, first_components(expected, 4), atol=1e-6)
    assert float(truncated.temperature) == pytest.approx(0.3)
    with pytest.raises(InputError, match="dimensions must be"):
        truncate_model(model, 17)


def test_an_encoder_without_projection_is_refused():
    model = ALIGN.from_encoders(
        ImageEncoder.from_variant("nano", 16, image_size=64),
        TextEncoder(
            vocabulary_size=len(VOCABULARY),
            num_layers=1,
            hidden_dim=16,
            num_heads=2,
            intermediate_dim=32,
            projection_dim=None,
            sequence_length=8,
        ),
    )
    with pytest.raises(InputError, match="text_encoder"):
        truncate_model(model, 8)


@pytest.mark.release
def test_an_export_has_the_first_components(tmp_path):
    model = small_align()
    model.save_to_preset(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--to", str(tmp_path / "export")]
    assert main(["export", "saved_model", *arguments, "--dimensions", "4"]) == 0
    exported = load_model(tmp_path / "export")
    assert exported.dimension == 4
    texts = ["abc", "d e"]
    expected = first_components(model.encode_texts(texts), 4)
    np.testing.assert_allclose(exported.encode_texts(texts), expected, atol=1e-5)
    assert exported.count_tokens(texts) == load_model(model).count_tokens(texts) > 4


def test_a_page_has_all_components(tmp_path, capsys):
    arguments = ["--model", "align_small_en", "--to", str(tmp_path / "page")]
    assert main(["export", "web", *arguments, "--dimensions", "4"]) == 1
    assert "--dimensions" in capsys.readouterr().err
