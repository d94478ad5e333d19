"""Downloads from the Hugging Face Hub, which a stub replaces, and from Kaggle."""

import os
import shutil
import subprocess
import sys

import keras_hub
import numpy as np
import pytest

from align_keras import load_model
from align_keras.models import ALIGN, ALIGNBackbone
from align_keras.presets.hub import HubName, download, parse_hub_name
from align_keras.utils.errors import InputError, MissingExtraError
from align_keras.utils.shared_data import find_shipped_model
from tests.helpers.align_folders import tiny_align
from tests.helpers.color_towers import GOLDEN
from tests.helpers.small import VOCABULARY, small_align, small_batch

WRONG_TOKEN = "hf_" + "x" * 34
# Script that opens models without TensorFlow and prints an embedding of each.
OPEN_WITHOUT_TENSORFLOW = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "keras_hub"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import align_keras

for name in sys.argv[1:]:
    try:
        model = align_keras.load_model(name)
        print(model.runtime, *model.encode_texts(["a dog"])[0].tolist())
    except align_keras.InputError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of `save_to_preset`."""
    path = tmp_path_factory.mktemp("saved")
    small_align().save_to_preset(path)
    return path


@pytest.fixture
def towers(tmp_path):
    """Folder of LiteRT towers with the weights file of Keras next to them."""
    path = tmp_path / "towers"
    shutil.copytree(GOLDEN, path)
    (path / "model.weights.h5").write_bytes(b"large" * 1000)
    return path


def transformers_5_folder(path):
    shutil.copytree(tiny_align(), path)
    settings = (path / "preprocessor_config.json").read_text()
    (path / "preprocessor_config.json").unlink()
    (path / "processor_config.json").write_text(f'{{"image_processor": {settings}}}')
    return path


def pixels():
    return [np.arange(48 * 40 * 3, dtype="uint8").reshape(48, 40, 3)]


def assert_equal_models(actual, expected):
    for actual_rows, expected_rows in (
        (actual.encode_images(pixels()), expected.encode_images(pixels())),
        (actual.encode_texts(["a red cat"]), expected.encode_texts(["a red cat"])),
    ):
        np.testing.assert_allclose(actual_rows, expected_rows, atol=1e-6)


def contents(folder):
    """Returns a dict from the path of each file in a folder to its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# === Names ===


@pytest.mark.parametrize(
    "name, expected",
    [
        ("hf://a/b", HubName("a/b", None, "")),
        ("a/b/", HubName("a/b", None, "")),
        ("hf://a/b.c-d@v1.0", HubName("a/b.c-d", "v1.0", "")),
        ("hf://a/b@refs/pr/3/onnx", HubName("a/b", "refs/pr/3", "onnx")),
        ("hf://a/b@x%2Fy/c/d", HubName("a/b", "x/y", "c/d")),
    ],
)
def test_a_name_has_a_repository_a_revision_and_a_folder(name, expected):
    assert parse_hub_name(name) == expected


@pytest.mark.parametrize(
    "name", ["hf://a", "hf://", "a/b@", "a/b/../c", "a/b c", "a//b"]
)
def test_a_wrong_name_is_refused(name):
    with pytest.raises(InputError, match="hf://user"):
        parse_hub_name(name)


# === Downloads ===


def test_a_preset_is_downloaded_once(hub_stub, saved):
    commit = hub_stub.add_model("user/saved", saved)
    hub_stub.add_model("user/saved", GOLDEN)
    assert hub_stub.repositories["user/saved"].branches["main"] != commit
    name = f"hf://user/saved@{commit}"
    folder = download(name)
    assert contents(folder) == contents(saved)
    hub_stub.downloads.clear()
    assert download(name) == folder
    assert hub_stub.downloads == []


def test_all_files_of_a_model_are_downloaded(hub_stub, tmp_path):
    folders = {
        "user/four": tiny_align(),
        "user/five": transformers_5_folder(tmp_path / "five"),
        "user/shipped": find_shipped_model("align_small_en"),
    }
    for name, folder in folders.items():
        hub_stub.add_model(name, folder)
        names = {path.name for path in folder.iterdir()} - {"README.md"}
        assert {path.name for path in download(f"hf://{name}").iterdir()} == names


def test_only_the_files_of_the_model_are_downloaded(hub_stub, tmp_path, saved):
    folder = tmp_path / "folder"
    shutil.copytree(saved, folder)
    others = ["pytorch_model.bin", "checkpoints/a.weights.h5", "onnx/image.onnx"]
    for name in others:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"large")
    (folder / "assets" / "tokenizer").mkdir(parents=True, exist_ok=True)
    (folder / "assets" / "tokenizer" / "vocabulary.spm").write_bytes(b"part of it")
    hub_stub.add_model("user/saved", folder)
    expected = {path for path in contents(folder) if path not in others}
    assert set(contents(download("hf://user/saved"))) == expected


def test_towers_are_opened_without_the_weights_of_keras(hub_stub, towers):
    (towers / "config.json").write_text("{}")
    hub_stub.add_model("user/towers", towers)
    model = load_model("hf://user/towers")
    assert (model.name, model.runtime) == ("hf://user/towers", "litert")
    expected = load_model(GOLDEN).encode_texts(["red"])
    np.testing.assert_array_equal(model.encode_texts(["red"]), expected)
    assert model.fingerprint == load_model(GOLDEN).fingerprint
    assert "model.weights.h5" not in hub_stub.downloads


@pytest.mark.ci
def test_the_keras_runtime_also_downloads_the_weights(hub_stub, saved):
    hub_stub.add_model("user/saved", saved)
    model = load_model("hf://user/saved")
    assert model.runtime == "keras" and model.name == "hf://user/saved"
    assert_equal_models(model, load_model(saved))


def test_a_folder_of_a_repository_is_opened(hub_stub, tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "repository" / "phone")
    hub_stub.add_model("user/model", tmp_path / "repository")
    assert load_model("hf://user/model/phone").runtime == "litert"
    with pytest.raises(InputError, match="repository without onnx"):
        load_model("hf://user/model/onnx")
    with pytest.raises(InputError, match="config.json"):
        load_model("hf://user/model")


def test_revisions_are_branches_and_commits(hub_stub, saved):
    old = hub_stub.add_model("user/model", GOLDEN)
    hub_stub.repositories["user/model"].branches["towers"] = old
    new = hub_stub.add_model("user/model", saved)
    assert load_model("hf://user/model@towers").runtime == "litert"
    assert download("hf://user/model", "towers").name == old
    assert download("hf://user/model").name == new


def test_a_private_repository_needs_the_token_of_its_user(
    hub_stub, monkeypatch, tmp_path
):
    token = hub_stub.add_user("user")
    hub_stub.add_model("user/private", GOLDEN, private=True)
    with pytest.raises(InputError, match="no such repository"):
        load_model("hf://user/private")
    # An argument, the file of `hf auth login`, and the environment.
    assert download("hf://user/private", token=token).is_dir()
    shutil.rmtree(tmp_path / "hub_cache")
    (tmp_path / "hub_cache").mkdir()
    (tmp_path / "hub_cache" / "token").write_text(token)
    assert load_model("hf://user/private").runtime == "litert"
    shutil.rmtree(tmp_path / "hub_cache")
    monkeypatch.setenv("HF_TOKEN", token)
    assert load_model("hf://user/private").runtime == "litert"


def test_a_cached_model_is_opened_offline(hub_stub, monkeypatch):
    hub_stub.add_model("user/towers", GOLDEN)
    load_model("hf://user/towers")
    hub_stub.stop()
    assert load_model("hf://user/towers").runtime == "litert"
    with pytest.raises(InputError, match=r"Connect\w*Error"):
        load_model("hf://user/other")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_model("hf://user/towers").runtime == "litert"
    message = "Unset HF_HUB_OFFLINE"
    with pytest.raises(InputError, match=message):
        load_model("hf://user/other")


@pytest.mark.ci
def test_keras_hub_uploads_and_opens_a_preset(hub_stub, saved, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub_stub.add_user("user"))
    keras_hub.upload_preset("hf://user/uploaded", str(saved))
    batch = small_batch()
    expected = ALIGN.from_preset(saved)(batch)
    backbone = keras_hub.models.Backbone.from_preset("hf://user/uploaded")
    assert type(backbone) is ALIGNBackbone
    for model in (backbone, ALIGN.from_preset("hf://user/uploaded")):
        for name, value in model(batch).items():
            np.testing.assert_array_equal(value, expected[name])
    tokenizer = keras_hub.tokenizers.Tokenizer.from_preset("hf://user/uploaded")
    assert tokenizer.get_vocabulary() == VOCABULARY


# === Mistakes ===


@pytest.mark.parametrize(
    "name, token, message",
    [
        ("user/none", None, "no such repository"),
        ("user/private", None, "no such repository"),
        ("user/towers@v9", None, "revision='v9'"),
        ("user/gated", None, "accept its terms.*/user/gated"),
        ("user/towers", WRONG_TOKEN, "your token.*hf auth login"),
        ("user/private", "bob", "no such repository"),
    ],
)
def test_a_mistake_is_one_line_without_the_token(
    hub_stub, monkeypatch, caplog, name, token, message
):
    for repository in ("user/towers", "user/gated", "user/private"):
        hub_stub.add_model(repository, GOLDEN, private=repository == "user/private")
    hub_stub.repositories["user/gated"].gated = True
    if token == "bob":
        token = hub_stub.add_user("bob")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=message) as caught:
        load_model(f"hf://{name}")
    text = str(caught.value)
    assert "\n" not in text and f"hf://{name}" in text
    assert token is None or token not in text + caplog.text


def test_a_token_that_is_no_header_is_hidden(hub_stub):
    hub_stub.add_model("user/towers", GOLDEN)
    with pytest.raises(InputError) as caught:
        download("hf://user/towers", token="secret\nword")
    assert "secret" not in str(caught.value)


# === Other processes ===


@pytest.mark.ci
def test_the_light_path_needs_no_tensorflow(hub_stub, tmp_path):
    """The client reads its settings from the environment, as for users."""
    hub_stub.add_model("user/small", find_shipped_model("align_small_en"))
    hub_stub.add_model("user/private", GOLDEN, private=True)
    token = hub_stub.add_user("user")
    names = ["hf://user/small", "hf://user/private", "hf://user/none", "kaggle://a/b"]
    process = open_without_tensorflow(names, hub_stub.environment(tmp_path, token))
    small, private, none, kaggle = process.stdout.splitlines()
    runtime, *row = small.split()
    assert runtime == "litert"
    expected = load_model("align_small_en").encode_texts(["a dog"])[0]
    np.testing.assert_allclose(np.array(row, float), expected, atol=1e-6)
    assert private.startswith("litert ")
    assert "no such repository" in none and "kaggle://a/b" in kaggle
    offline = hub_stub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}
    process = open_without_tensorflow(names, offline)
    assert process.stdout.splitlines()[:2] == [small, private]


def open_without_tensorflow(names, environment):
    process = subprocess.run(
        [sys.executable, "-c", OPEN_WITHOUT_TENSORFLOW, *names],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process


# === Kaggle ===


def test_a_model_of_kaggle_needs_kagglehub(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(MissingExtraError, match="kagglehub"):
        download("kaggle://user/towers/keras/small/1")


def test_a_model_of_kaggle_is_opened_from_its_cache(tmp_path, monkeypatch):
    pytest.importorskip("kagglehub")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    folder = tmp_path / "models" / "user" / "towers" / "keras" / "small" / "1"
    shutil.copytree(GOLDEN, folder)
    # kagglehub writes this file after a complete download.
    (folder.parent / "1.complete").touch()
    model = load_model("kaggle://user/towers/keras/small/1")
    assert model.name == "kaggle://user/towers/keras/small/1"
    assert model.runtime == "litert"
    with pytest.raises(InputError, match="revision"):
        download("kaggle://user/towers/keras/small/1", revision="v1")
    with pytest.raises(InputError, match="kaggle://user/x"):
        load_model("kaggle://user/x")


def test_no_test_reaches_the_internet(hub_stub):
    import huggingface_hub

    assert huggingface_hub.HfApi().endpoint == hub_stub.url
    assert "HF_TOKEN" not in os.environ
