"""Models as encode functions, and what tells their embeddings apart."""

import numpy as np
import pytest

from align_keras.protocols.open_model import check_model, fingerprints, open_model
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align
from tests.helpers.tiny_export import picture_bytes, write_tiny_export

PICTURES = [
    np.random.default_rng(seed).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    for seed in range(3)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "run"
    small_align().save_to_preset(folder)
    return folder


def test_a_run_folder(run):
    model = open_model(str(run))
    images = model.encode_images(PICTURES)
    np.testing.assert_array_equal(images, model.align.encode_images(PICTURES))
    assert model.encode_texts(["a cat"]).shape == (1, 16)
    assert model.encode_words(["cat"]).shape == (1, 16)
    again = open_model(str(run))
    assert again.image_fingerprint == model.image_fingerprint
    assert again.text_fingerprint == model.text_fingerprint
    assert model.image_fingerprint != model.text_fingerprint


def test_every_cause_of_other_embeddings_changes_a_fingerprint():
    """And nothing else does: an embedding is computed once."""
    align = small_align()

    def moved(encoder, name):
        """One number of one variable, by one unit in the last place."""
        variables = getattr(align, encoder).variables
        variable = next(own for own in variables if own.path.endswith(name))
        value = variable.numpy()
        value.flat[0] = np.nextafter(value.flat[0], np.float32(9))
        variable.assign(value)

    def swapped():
        align.vocabulary = [*align.vocabulary[:-2], *align.vocabulary[:-3:-1]]

    scaling = align.image_encoder.set_pixel_scaling
    image, text = {fingerprints(align)[0]}, {fingerprints(align)[1]}
    for change in (
        lambda: moved("image_encoder", "stem/kernel"),
        lambda: moved("image_encoder", "projection/bias"),
        lambda: moved("image_encoder", "moving_mean"),
        lambda: moved("image_encoder", "moving_variance"),
        lambda: scaling(120.0, 127.5),
        lambda: scaling(120.0, [127.5, 127.5, 120.0]),
        # The same weights, other pictures.
        lambda: setattr(align.image_encoder, "image_size", 48),
    ):
        change()
        new = fingerprints(align)
        assert new[0] not in image and new[1] in text
        image.add(new[0])
    for change in (
        lambda: moved("text_encoder", "projection/bias"),
        swapped,
        lambda: setattr(align, "normalization", "bert_cased"),
    ):
        change()
        new = fingerprints(align)
        assert new[1] not in text and new[0] in image
        text.add(new[1])
    # The temperature isn't in the embeddings, and seeds aren't either.
    align.temperature_layer.variables[0].assign(0.5)
    align.text_encoder(
        {"token_ids": np.ones((1, 8), int), "padding_mask": np.ones((1, 8), int)},
        training=True,
    )
    assert fingerprints(align) == new


@pytest.mark.parametrize(
    "version, changes",
    [
        ("images.preprocess.PREPROCESSING_VERSION", (True, False)),
        ("text.wordpiece_tokenizer.TOKENIZATION_VERSION", (False, True)),
    ],
)
def test_another_version_of_what_precedes_an_encoder(monkeypatch, version, changes):
    align = small_align()
    before = fingerprints(align)
    monkeypatch.setattr(f"align_keras.{version}", 0)
    after = fingerprints(align)
    assert (after[0] != before[0], after[1] != before[1]) == changes


def test_engines_have_embeddings_of_their_own(tmp_path):
    align = small_align()
    (tmp_path / "image.tflite").write_bytes(b"one")
    (tmp_path / "other.tflite").write_bytes(b"other")
    files = (str(tmp_path / "image.tflite"), str(tmp_path / "other.tflite"))
    engines = (None, "openvino", "openvino_bfloat16", *files)
    made = [fingerprints(align, engine) for engine in engines]
    assert len({image for image, _ in made}) == 5
    assert len({text for _, text in made}) == 1


def test_an_engine_that_is_not_installed_is_no_bad_picture(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="needs OpenVINO, which isn't installed"):
        open_model(str(run), "openvino")


@pytest.mark.ci
def test_an_export(tmp_path):
    one = open_model(str(write_tiny_export(tmp_path / "one")))
    red = np.full((5, 7, 3), (255, 0, 0), np.uint8)
    (tmp_path / "red.png").write_bytes(picture_bytes("red"))
    embeddings = one.encode_images(
        [red, picture_bytes("red"), tmp_path / "red.png", picture_bytes("blue")]
    )
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    np.testing.assert_array_equal(embeddings[0], embeddings[2])
    assert embeddings[0] @ embeddings[3] < 0.5
    assert embeddings[0] @ one.encode_texts(["a red bicycle"])[0] > 0.9
    assert one.encode_words is None and one.align is None
    again = open_model(str(tmp_path / "one"))
    other = open_model(str(write_tiny_export(tmp_path / "other", scale=2.0)))
    assert one.image_fingerprint == again.image_fingerprint != other.image_fingerprint


def test_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "saved_model.pb").touch()
    for name, engine, message in (
        ("model.keras", None, r"must be a folder.*save_to_preset\("),
        ("nowhere", None, "model must be a folder or hf://user/model.*nowhere"),
        ("empty", None, "neither config.json nor saved_model.pb"),
        ("unfinished", None, "must be a finished run.*the same train command goes on"),
        ("export", "openvino", "engine must be left out for an export"),
    ):
        for function in (check_model, open_model):
            with pytest.raises(InputError, match=message):
                function(str(tmp_path / name), engine)
    check_model("hf://kakaobrain/align-base")
