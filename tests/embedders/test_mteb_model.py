"""`mteb_model`, the wrapper of a model for mteb."""

import json
import pathlib
import subprocess
import sys
import types

import pytest

import align_keras
from align_keras.utils import llvm_conflict
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import GOLDEN
from tests.helpers.oracle_process import needs

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "helpers" / "mteb_script.py"


def run_script(*arguments):
    """Returns the JSON that the script printed in its own process.

    The process of the tests cannot import mteb, because it loads PyTorch and triton.
    """
    process = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_mteb_must_be_installed(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mteb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(InputError, match=r'pip install "align-keras\[mteb\]"'):
        align_keras.mteb_model(GOLDEN)


def test_tensorflow_is_not_imported_after_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", types.ModuleType("triton"))
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(InputError, match="triton.*'a_run'"):
        llvm_conflict.refuse_loaded_triton("a_run")
    llvm_conflict.block_triton()
    assert sys.modules["triton"] is not None
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))
    llvm_conflict.refuse_loaded_triton("a_run")
    monkeypatch.delitem(sys.modules, "triton")
    llvm_conflict.block_triton()
    with pytest.raises(ImportError):
        import triton  # noqa: F401
    monkeypatch.undo()


class FakeMeta(types.SimpleNamespace):
    """`mteb.ModelMeta`, which would load PyTorch in this process."""

    model_fields = {"name", "license"}


def test_the_metadata_have_the_facts_of_the_shipped_model(monkeypatch):
    fake = types.SimpleNamespace(ModelMeta=FakeMeta)
    monkeypatch.setitem(sys.modules, "mteb", types.SimpleNamespace(models=fake))
    monkeypatch.setitem(sys.modules, "mteb.models", fake)
    monkeypatch.setattr("align_keras.embedders.mteb_encoder.block_triton", lambda: None)
    model = align_keras.mteb_model("align_small_en", "litert", name="user/model")
    meta = model.mteb_model_meta
    assert meta.loader_kwargs["runtime"] == model.embedder.runtime == "litert"
    assert (meta.name, meta.license) == ("user/model", "apache-2.0")
    assert (meta.languages, meta.open_weights) == (["eng-Latn"], True)
    assert (meta.n_parameters, meta.max_tokens) == (28_283_145, 32)


@pytest.mark.ci
@needs("mteb", "torch", "torchvision")
def test_the_mock_tasks_pass_and_results_match_the_protocols(tmp_path):
    result = run_script("align_small_en", tmp_path, 8, "litert")
    # Nothing is skipped: each task with images or texts has a result.
    assert result["passed"] == result["compatible"] > 4
    assert result["all_passed"] and result["skipped"] == []
    meta = result["meta"]
    assert meta["name"] == "align-keras/align_small_en"
    assert meta["embed_dim"] == 384 and meta["license"] == "apache-2.0"
    assert meta["modalities"] == ["image", "text"]
    assert result["opened_again"]
    # LiteRT does not need TensorFlow.
    assert not result["has_tensorflow"]
    # The images of the task are PNG files with transparency, and the protocol reads the
    # same files.
    evaluation = align_keras.evaluate(
        "align_small_en",
        "zero_shot",
        str(tmp_path / "images"),
        templates="none",
        runtime="litert",
        cache=tmp_path / "cache",
    )
    accuracy = evaluation["metrics"]["zero_shot/top_1"]
    assert result["accuracy"] == pytest.approx(accuracy)
    assert 0 < accuracy < 1
    # The measurement of tools/check_published.py reads the same score.
    assert result["published_accuracy"] == result["accuracy"]


@pytest.mark.release
@needs("mteb", "torch", "torchvision")
def test_the_mock_tasks_pass_with_keras(tmp_path):
    result = run_script("align_small_en", tmp_path, 1)
    assert result["passed"] == result["compatible"] > 40 and result["all_passed"]
    assert result["has_tensorflow"]
    assert result["meta"]["n_parameters"] > 10_000_000
