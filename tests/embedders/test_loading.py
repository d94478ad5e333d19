"""Models opened by their names, and the digests that tell their embeddings apart."""

import hashlib
import sys

import numpy as np
import pytest

from align_keras import load_model
from align_keras.embedders.locations import choose_runtime, locate_model
from align_keras.images.preprocess import PREPROCESSING_VERSION
from align_keras.models import ALIGN
from align_keras.text.wordpiece_tokenizer import TOKENIZATION_VERSION
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align
from tests.helpers.tiny_export import image_bytes, write_tiny_export

PICTURES = [
    np.random.default_rng(seed).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    for seed in range(3)
]


def fingerprints(align):
    """Returns the digests of image and text embeddings."""
    model = load_model(align)
    return model.image_fingerprint, model.text_fingerprint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "run"
    small_align().save_to_preset(folder)
    return folder


def test_a_run_folder(run):
    model = load_model(str(run))
    images = model.encode_images(PICTURES)
    np.testing.assert_array_equal(images, model.align.encode_images(PICTURES))
    assert model.encode_texts(["a cat"]).shape == (1, 16)
    assert model.encode_words(["cat"]).shape == (1, 16)
    again = load_model(str(run))
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


def test_fingerprints_are_those_of_stored_caches_and_indexes(run):
    """Another digest would compute every stored embedding again."""
    align = ALIGN.from_preset(run)
    image = align.image_encoder.fingerprint()
    text = align.text_encoder.fingerprint()

    def digest(encoder_digest, *parts):
        sha = hashlib.sha256(encoder_digest.encode())
        for part in parts:
            sha.update(hashlib.sha256(part.encode()).digest())
        return sha.hexdigest()[:16]

    model = load_model(run)
    assert model.image_fingerprint == digest(image, "None", str(PREPROCESSING_VERSION))
    words = [align.normalization, str(TOKENIZATION_VERSION), *align.vocabulary]
    assert model.text_fingerprint == digest(text, *words)
    assert model.fingerprint == digest(image + text)


def test_a_runtime_that_is_not_installed_is_no_bad_picture(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="needs openvino, which is not installed"):
        load_model(run, "openvino")


@pytest.mark.ci
def test_an_export(tmp_path):
    one = load_model(write_tiny_export(tmp_path / "one"))
    red = np.full((5, 7, 3), (255, 0, 0), np.uint8)
    (tmp_path / "red.png").write_bytes(image_bytes("red"))
    embeddings = one.encode_images(
        [red, image_bytes("red"), tmp_path / "red.png", image_bytes("blue")]
    )
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    np.testing.assert_array_equal(embeddings[0], embeddings[2])
    assert embeddings[0] @ embeddings[3] < 0.5
    assert embeddings[0] @ one.encode_texts(["a red bicycle"])[0] > 0.9
    assert one.align is None and one.runtime == "saved_model"
    with pytest.raises(InputError, match="Keras model to embed words"):
        one.encode_words(["red"])
    again = load_model(tmp_path / "one")
    other = load_model(write_tiny_export(tmp_path / "other", scale=2.0))
    assert one.image_fingerprint == again.image_fingerprint != other.image_fingerprint


@pytest.mark.parametrize(
    "name, runtime, message",
    [
        ("model.keras", "auto", r"must be a folder.*save_to_preset\("),
        ("nowhere", "auto", "hf://user/model. Received: .*nowhere.*does not exist"),
        ("", "auto", "model must be align_small_en, the folder of a run"),
        ("file.txt", "auto", "which is not a folder"),
        ("empty", "auto", "has no config.json, saved_model.pb"),
        ("unfinished", "auto", "must be a finished run.*continues the run"),
        ("export", "openvino", "runtime must be saved_model .*Name the run folder"),
        ("export", "litert", "runtime must be saved_model "),
        ("towers", "keras", "runtime must be litert for the model .*towers"),
        ("towers", "openvino_bfloat16", "runtime must be litert"),
        ("preset", "saved_model", "runtime must be keras for the model"),
        ("preset", "onnx", "runtime must be keras .*export the model for this one"),
        ("preset", "torch", "runtime must be one of auto, keras.*runtime='torch'"),
        ("preset", "no.tflite", "a file that exists. Received: 'no.tflite'"),
    ],
)
def test_wrong_names_and_runtimes_are_refused_without_tensorflow(
    tmp_path, monkeypatch, name, runtime, message
):
    (tmp_path / "file.txt").touch()
    for folder, file in (
        ("empty", None),
        ("unfinished/checkpoints", None),
        ("export", "saved_model.pb"),
        ("towers", "text.tflite"),
        ("preset", "config.json"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        if file is not None:
            (tmp_path / folder / file).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "align_keras.models.align", None)
    with pytest.raises(InputError, match=message):
        load_model(name, runtime)


def test_the_name_of_an_architecture_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="'align_nano', which does not exist"):
        load_model("align_nano")
    # A folder of this name is the folder, not the architecture with random weights.
    small_align().save_to_preset("align_nano")
    assert load_model("align_nano").dimension == 16


def test_names_of_the_hub_and_of_the_package(tmp_path, monkeypatch):
    location = locate_model("hf://kakaobrain/align-base")
    assert choose_runtime(location) == "keras" and location.folder is None
    # The shipped model has this name in every working folder.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "align_small_en").mkdir()
    location = locate_model("align_small_en")
    assert location.runtimes == ("litert", "keras")
    assert location.name == "align_small_en"
    assert location.folder != tmp_path / "align_small_en"


def test_a_name_opens_the_model_from_any_working_folder(run, monkeypatch, tmp_path):
    monkeypatch.chdir(run.parent)
    name = load_model(run.name).name
    monkeypatch.chdir(tmp_path)
    assert load_model(name).name == name == str(run)


def test_a_model_in_memory_and_one_that_is_open():
    align = small_align()
    model = load_model(align)
    assert model.in_memory and model.name == align.name and model.runtime == "keras"
    assert load_model(model) is model is load_model(model, "keras")
    with pytest.raises(InputError, match="runtime must be keras for a model that is"):
        load_model(model, "openvino")
    with pytest.raises(InputError, match="a model in memory.*runtime='litert'"):
        load_model(align, "litert")
    with pytest.raises(InputError, match="a name, an ALIGN or an Embedder.*int"):
        load_model(3)


def test_an_embedder_composes_queries(run):
    model = load_model(run)
    query = model.encode_query(PICTURES[0], plus="red", minus=["cat"])
    np.testing.assert_allclose(
        query, model.align.encode_query(PICTURES[0], "red", ["cat"]), atol=1e-6
    )
