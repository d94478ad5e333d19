"""Opening models by their names, and the fingerprints of their embeddings."""

import hashlib
import json
import shutil
import sys
import zipfile

import numpy as np
import pytest

from align_keras import load_model
from align_keras.embedders.locations import choose_runtime, locate_model
from align_keras.images.preprocess import PREPROCESSING_VERSION
from align_keras.presets import hub
from align_keras.text.wordpiece_tokenizer import TOKENIZATION_VERSION
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import GOLDEN
from tests.helpers.small import small_align


def fingerprints(align):
    """Returns the fingerprints of image and text embeddings of a model."""
    model = load_model(align)
    return model.image_fingerprint, model.text_fingerprint


def test_a_keras_file_opens_like_a_preset(tmp_path):
    align = small_align()
    align.save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    assert model.fingerprint == load_model(align).fingerprint


def test_only_changes_of_embeddings_change_a_fingerprint():
    align = small_align()

    def change_weight(encoder, name):
        """Changes one number of a variable by one unit in the last place."""
        variables = getattr(align, encoder).variables
        variable = next(item for item in variables if item.path.endswith(name))
        value = variable.numpy()
        value.flat[0] = np.nextafter(value.flat[0], np.float32(9))
        variable.assign(value)

    def swap_tokens():
        tokens = align.vocabulary
        align.tokenizer.set_vocabulary([*tokens[:-2], *tokens[:-3:-1]])

    def use_cased_captions():
        align.tokenizer.normalization = "bert_cased"
        align.tokenizer.set_vocabulary(align.vocabulary)

    scale_pixels = align.image_encoder.set_pixel_scaling
    image_fingerprints = {fingerprints(align)[0]}
    text_fingerprints = {fingerprints(align)[1]}
    for change in (
        lambda: change_weight("image_encoder", "stem/kernel"),
        lambda: change_weight("image_encoder", "projection/bias"),
        lambda: change_weight("image_encoder", "moving_mean"),
        lambda: change_weight("image_encoder", "moving_variance"),
        lambda: scale_pixels(120.0, 127.5),
        lambda: scale_pixels(120.0, [127.5, 127.5, 120.0]),
        lambda: setattr(align.image_encoder, "image_size", 48),
    ):
        change()
        image, text = fingerprints(align)
        assert image not in image_fingerprints and text in text_fingerprints
        image_fingerprints.add(image)
    for change in (
        lambda: change_weight("text_encoder", "projection/bias"),
        swap_tokens,
        use_cased_captions,
    ):
        change()
        image, text = fingerprints(align)
        assert text not in text_fingerprints and image in image_fingerprints
        text_fingerprints.add(text)
    # Embeddings depend neither on the temperature nor on the seeds of dropout.
    align.temperature_layer.variables[0].assign(0.5)
    align.text_encoder(
        {"token_ids": np.ones((1, 8), int), "padding_mask": np.ones((1, 8), int)},
        training=True,
    )
    assert fingerprints(align) == (image, text)


@pytest.mark.parametrize(
    "version, changes",
    [
        ("images.preprocess.PREPROCESSING_VERSION", (True, False)),
        ("text.wordpiece_tokenizer.TOKENIZATION_VERSION", (False, True)),
    ],
)
def test_a_preprocessing_version_changes_a_fingerprint(monkeypatch, version, changes):
    align = small_align()
    previous = fingerprints(align)
    monkeypatch.setattr(f"align_keras.{version}", 0)
    current = fingerprints(align)
    assert (current[0] != previous[0], current[1] != previous[1]) == changes


def test_the_formula_of_fingerprints_stays():
    """A changed formula would make all caches and indexes of users invalid."""
    align = small_align()
    image = align.image_encoder.fingerprint()
    text = align.text_encoder.fingerprint()

    def digest(encoder_digest, *parts):
        sha = hashlib.sha256(encoder_digest.encode())
        for part in parts:
            sha.update(hashlib.sha256(part.encode()).digest())
        return sha.hexdigest()[:16]

    model = load_model(align)
    assert model.image_fingerprint == digest(image, "keras", str(PREPROCESSING_VERSION))
    words = [align.normalization, str(TOKENIZATION_VERSION), *align.vocabulary]
    assert model.text_fingerprint == digest(text, *words)
    assert model.fingerprint == digest(image + text + "keras")


def test_a_runtime_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.json").touch()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="openvino"):
        load_model(tmp_path, "openvino")


@pytest.mark.parametrize(
    "name, runtime, message",
    [
        ("nowhere", "auto", "does not exist"),
        ("align_smal_en", "auto", "Did you mean align_small_en"),
        ("align_nano", "auto", "random weights"),
        ("", "auto", "does not exist"),
        ("file.txt", "auto", "has no config.json"),
        ("empty", "auto", "has no config.json"),
        ("unfinished", "auto", "has not finished"),
        ("export", "openvino", "`runtime`"),
        ("towers", "keras", "`runtime`"),
        ("preset", "onnx", "`runtime`"),
        ("preset", "torch", "`runtime`"),
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


def test_a_folder_takes_precedence_over_an_architecture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "align_nano").mkdir()
    (tmp_path / "align_nano" / "config.json").touch()
    assert locate_model("align_nano").preset == tmp_path / "align_nano"


def test_hub_and_shipped_models_are_located_by_name(tmp_path, monkeypatch):
    folders = {"hf://user/keras": tmp_path, "hf://user/towers": GOLDEN}
    (tmp_path / "config.json").touch()
    monkeypatch.setattr(hub, "download", lambda name, weights: folders[name])
    location = locate_model("hf://user/keras")
    assert choose_runtime(location) == "keras"
    # `from_preset` downloads the weights.
    assert location.preset == location.name == "hf://user/keras"
    assert choose_runtime(locate_model("hf://user/towers")) == "litert"
    # The shipped model takes precedence over a folder with its name.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "align_small_en").mkdir()
    location = locate_model("align_small_en")
    assert location.runtimes == ("litert", "keras")
    assert location.name == "align_small_en"
    assert location.folder != tmp_path / "align_small_en"


def test_a_name_opens_the_model_from_any_directory(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    name = locate_model("run").name
    monkeypatch.chdir("/")
    assert locate_model(name).name == name == str(tmp_path / "run")


def test_load_model_accepts_models_in_memory_and_embedders():
    align = small_align()
    model = load_model(align)
    assert model.in_memory and model.name == align.name and model.runtime == "keras"
    assert load_model(model) is model is load_model(model, "keras")
    with pytest.raises(InputError, match="runtime"):
        load_model(model, "openvino")
    with pytest.raises(InputError, match="runtime"):
        load_model(align, "litert")


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("text", {"sequence_length": 10**9}),
        ("image", {"image_size": 10**9, "resize_to": 10**9}),
        ("image", {"note": "a" * 40_000_000}),
    ],
)
def test_metadata_of_towers_cannot_fill_the_memory(tmp_path, kind, changes):
    folder = shutil.copytree(GOLDEN, tmp_path / "towers")
    path = folder / f"{kind}.tflite"
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        start = min(member.header_offset for member in archive.infolist())
    metadata = json.loads(files["metadata.json"])
    metadata["preprocessing"] |= changes
    files["metadata.json"] = json.dumps(metadata).encode()
    path.write_bytes(content[:start])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match=f"{kind}.tflite"):
        load_model(folder)
