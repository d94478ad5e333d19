"""Uploads to the Hugging Face Hub, which a stub replaces."""

import json
import re
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard

import align_keras
from align_keras import load_model, push_to_hub
from align_keras.models import ALIGN
from align_keras.presets.hub import EXPORT_FOLDERS
from align_keras.runs import hub_upload
from align_keras.runs.card_facts import save_data_notes
from align_keras.runs.model_export import EXPORT_FORMATS
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import GOLDEN
from tests.helpers.hub_stub import Repository
from tests.helpers.small import VOCABULARY, small_encoders

NAME = "user/model"


@pytest.fixture(scope="module")
def align():
    encoders = small_encoders(num_stages=1)
    return ALIGN.from_encoders(*encoders, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def run_folder(align, tmp_path_factory):
    """Folder of a run with a model, metrics and notes on its data."""
    path = tmp_path_factory.mktemp("work") / "run"
    align.save_to_preset(path)
    notes = {"clipart": {"summary": ["12 pairs kept"]}, "/home/me/own": {}}
    save_data_notes(path, notes)
    metrics = {"t2i/recall_at_1": 0.25, "t2i/queries": 89.0, "loss": 2.0}
    (path / "metrics.jsonl").write_text(json.dumps({"step": 1, **metrics}) + "\n")
    return path


@pytest.fixture
def token(hub_stub, monkeypatch):
    """Token of the user, who is logged in."""
    token = hub_stub.add_user("user")
    monkeypatch.setenv("HF_TOKEN", token)
    return token


def files_of(stub, name=NAME, revision="main"):
    """Returns a dict from the path of each file of a repository to its content."""
    return stub.repositories[name].files(revision)


def card_of(stub, revision="main"):
    """Returns the model card of a repository."""
    return ModelCard(files_of(stub, revision=revision)["README.md"].decode())


def report_of(model, **fields):
    report = {"model": str(model), "protocol": "zero_shot", "data": "/data/stamps"}
    metrics = {"zero_shot/top_1": 0.5, "images": 4.0, "zero_shot/top_5": None}
    return {**report, "metrics": metrics, **fields}


# === Presets ===


def test_a_model_opens_from_the_hub(hub_stub, token, align, tmp_path):
    url = push_to_hub(align, NAME)
    repository = hub_stub.repositories[NAME]
    commit = repository.branches["main"]
    assert url == f"{hub_stub.url}/{NAME}/commit/{commit}"
    assert not repository.private
    align.save_to_preset(tmp_path / "preset")
    preset = {
        path.relative_to(tmp_path / "preset").as_posix()
        for path in (tmp_path / "preset").rglob("*.*")
    }
    assert set(files_of(hub_stub)) == preset | {"README.md"}
    opened = ALIGN.from_preset(f"hf://{NAME}")
    captions = ["a red cat", "dog"]
    np.testing.assert_allclose(
        opened.encode_texts(captions), align.encode_texts(captions), atol=1e-6
    )


def test_the_card_of_a_run_has_valid_metadata(hub_stub, token, run_folder):
    push_to_hub(
        run_folder,
        NAME,
        license="cc-by-4.0",
        evaluation=[report_of(run_folder, split="test")],
    )
    card = card_of(hub_stub)
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "align-keras"
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert card.data.language == ["en"]
    # The local folder is not a data set on the Hub.
    assert card.data.datasets == ["clipart"]
    assert card.data.model_name == NAME
    scores = [
        (result.task_type, result.dataset_name, result.metric_name, result.metric_value)
        for result in card.data.eval_results
    ]
    assert scores == [
        ("image-text-retrieval", "validation", "t2i/recall_at_1", 0.25),
        ("zero-shot-image-classification", "stamps", "zero_shot/top_1", 0.5),
    ]
    assert card.data.eval_results[1].dataset_split == "test"
    assert "- clipart\n  - 12 pairs kept\n- own\n" in card.text
    assert "### zero_shot on stamps, split test" in card.text
    assert f'load_model("hf://{NAME}")' in card.text
    # The card has no path of this machine.
    assert str(run_folder.parent) not in str(card) and "/home/me" not in str(card)


def test_a_second_version_replaces_the_model_only(hub_stub, token, align):
    repository = hub_stub.repositories.setdefault(NAME, Repository())
    old = {
        "assets/tokenizer/vocabulary.txt": b"old tokens",
        "image.tflite": b"old tower",
        "saved_model/align/1/saved_model.pb": b"old export",
        "vocab.txt": b"old tokens",
        "README.md": b"---\nlicense: gpl-3.0\nlanguage: de\n---\n# Old\n",
        "LICENSE.txt": b"terms",
        "cat.png": b"image",
    }
    repository.commit("main", old, "old")
    push_to_hub(align, NAME, commit_message="Second version")
    files = files_of(hub_stub)
    new = set(files).difference(old)
    assert {"config.json", "model.weights.h5"} <= new
    assert {path for path in old if files.get(path) == old[path]} == {
        "LICENSE.txt",
        "cat.png",
    }
    assert set(old).difference(files) >= {
        "image.tflite",
        "saved_model/align/1/saved_model.pb",
    }
    # Fields that are not set stay as they are on the Hub.
    card = card_of(hub_stub)
    assert (card.data.license, card.data.language) == ("gpl-3.0", "de")
    assert repository.messages[repository.branches["main"]] == "Second version"


def test_an_unknown_license_is_reported(hub_stub, token, capfd):
    push_to_hub(GOLDEN, NAME)
    assert card_of(hub_stub).data.license == "unknown"
    assert "license" in capfd.readouterr().err
    push_to_hub(GOLDEN, NAME, license="mit", language="fr", datasets=["user/pairs"])
    data = card_of(hub_stub).data
    assert data.license == "mit"
    assert (data.language, data.datasets) == (["fr"], ["user/pairs"])
    assert capfd.readouterr().err == ""


def test_a_branch_is_created(hub_stub, token):
    push_to_hub(GOLDEN, NAME, license="mit")
    push_to_hub(GOLDEN, f"hf://{NAME}", revision="v2", license="gpl-3.0")
    licenses = {
        branch: card_of(hub_stub, branch).data.license for branch in ("main", "v2")
    }
    assert licenses == {"main": "mit", "v2": "gpl-3.0"}
    assert f'load_model("hf://{NAME}@v2")' in card_of(hub_stub, "v2").text
    assert load_model(f"hf://{NAME}@v2").runtime == "litert"


def test_a_private_model_stays_private(hub_stub, token, monkeypatch):
    push_to_hub(GOLDEN, NAME, private=True)
    assert hub_stub.repositories[NAME].private
    push_to_hub(GOLDEN, NAME, private=True, license="mit")
    push_to_hub(GOLDEN, NAME)
    assert hub_stub.repositories[NAME].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="no such repository"):
        ALIGN.from_preset(f"hf://{NAME}")
    hub_stub.repositories["user/public"] = Repository()
    with pytest.raises(InputError, match="`private`"):
        push_to_hub(GOLDEN, "user/public", private=True, token=token)
    assert files_of(hub_stub, "user/public") == {}


# === Folders with all their files, and exports ===


def test_a_folder_of_towers_is_uploaded_as_it_is(hub_stub, token, tmp_path):
    folder = tmp_path / "towers"
    shutil.copytree(GOLDEN, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# My towers\n")
    (folder / ".secret").write_text("password")
    push_to_hub(folder, NAME, evaluation=[report_of(folder)])
    files = files_of(hub_stub)
    assert set(files) == {"README.md", *(path.name for path in GOLDEN.iterdir())}
    for path in GOLDEN.iterdir():
        assert files[path.name] == path.read_bytes()
    card = card_of(hub_stub)
    assert card.text.strip() == "# My towers"
    assert card.data.license == "mit"
    assert card.data.eval_results[0].metric_value == 0.5
    assert (folder / "README.md").read_text().count("license") == 1


def test_exports_are_folders_next_to_the_preset(hub_stub, token, align, monkeypatch):
    def export_model(model, to, format="saved_model", **options):
        to.mkdir()
        names = {"litert": ("image.tflite", "text.tflite", "example.py")}
        for name in ("README.md", *names.get(format, (f"{format}.bin",))):
            (to / name).write_text(f"{name} of {format}")

    monkeypatch.setattr(hub_upload, "export_model", export_model)
    monkeypatch.setattr(hub_upload, "check_format_packages", lambda *_: None)
    push_to_hub(align, NAME, exports=tuple(EXPORT_FORMATS), license="mit")
    files = set(files_of(hub_stub))
    assert {"image.tflite", "text.tflite", "config.json"} <= files
    assert {
        path for path in files if re.match("onnx|saved_model|web|litert", path)
    } == {
        "onnx/onnx.bin",
        "saved_model/saved_model.bin",
        "web/web.bin",
    }
    assert "`onnx/` has" in card_of(hub_stub).text
    # `hf://` does not download these folders.
    assert {*EXPORT_FOLDERS, "litert"} == set(EXPORT_FORMATS)


@pytest.mark.ci
def test_litert_towers_make_the_model_open_without_keras(hub_stub, token, run_folder):
    pytest.importorskip("litert_quantizer")
    push_to_hub(run_folder, NAME, exports=["litert"], license="mit")
    model = load_model(f"hf://{NAME}")
    assert model.runtime == "litert"
    keras = load_model(f"hf://{NAME}", "keras")
    captions = ["a red cat", "dog"]
    np.testing.assert_allclose(
        model.encode_texts(captions), keras.encode_texts(captions), atol=1e-5
    )


# === Mistakes ===


@pytest.mark.parametrize(
    "options, message",
    [
        ({"repository": "model"}, "hf://user/model"),
        ({"repository": "user/model/onnx"}, "`repository` .*user/model"),
        ({"license": "no-such-license"}, '"license"'),
        ({"exports": ["keras"]}, "exports"),
        ({"model": "no_such_folder"}, "'no_such_folder'"),
        ({"model": "docs"}, "docs.* no config.json"),
        ({"evaluation": [{"protocol": "knn"}]}, "align-keras evaluate"),
        ({"token": "hf_" + "x" * 34}, "accept your token"),
        ({"repository": "another/model"}, "token doesn't permit"),
    ],
)
def test_a_mistake_creates_no_repository(hub_stub, token, options, message):
    arguments = {"model": GOLDEN, "repository": NAME, **options}
    with pytest.raises(InputError, match=message) as caught:
        push_to_hub(**arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert token not in text and "hf_xxx" not in text
    assert not hub_stub.repositories


def test_an_upload_needs_a_token_that_may_write(hub_stub, monkeypatch):
    with pytest.raises(InputError, match="hf auth login"):
        push_to_hub(GOLDEN, NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        push_to_hub(GOLDEN, NAME, token=hub_stub.add_user("user"))


def test_damaged_metadata_of_a_card_are_refused(hub_stub, token, tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "towers")
    (tmp_path / "towers" / "README.md").write_text("---\n- license\n---\n# Towers\n")
    with pytest.raises(InputError, match="README.md"):
        push_to_hub(tmp_path / "towers", NAME)


def test_the_function_is_public():
    assert align_keras.push_to_hub is push_to_hub
