"""Tests of the comparison of an export with its model in another process.

The fixture `finished_run` runs the process itself.
"""

import json
import runpy
import subprocess
import sys

import numpy as np
import pytest

from align_keras import load_model
from align_keras.runs import standalone
from align_keras.runs.standalone import check_standalone
from tests.helpers import tiny_export as tiny


@pytest.fixture(scope="module")
def tiny_export(tmp_path_factory):
    return tiny.write_tiny_export(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture
def empty_export(tmp_path):
    """An export that no process opens."""
    (tmp_path / "saved_model.pb").touch()
    return tmp_path


@pytest.fixture
def arguments():
    """Returns images and captions with embeddings, which no process reads."""
    rows = np.eye(1, 4)
    return {
        "images": [tiny.image_bytes("red")],
        "image_embeddings": rows,
        "captions": ["red"],
        "text_embeddings": rows,
    }


def replace_process(monkeypatch, code=0, stdout="", stderr=""):
    """Replaces the process, whose start takes seconds, with a result."""
    done = subprocess.CompletedProcess([], code, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)


def test_embeddings_that_differ_raise_an_error(empty_export, arguments, monkeypatch):
    for difference in ("0.5", "NaN"):
        replace_process(monkeypatch, stdout=difference)
        with pytest.raises(RuntimeError, match="difference"):
            check_standalone(empty_export, **arguments)
    replace_process(monkeypatch, stdout="0.00009")
    assert check_standalone(empty_export, **arguments) == 0.00009


def test_a_failed_process_is_reported_in_one_line(empty_export, arguments, monkeypatch):
    error = "a note\nInvalidArgumentError: no image\n"
    replace_process(monkeypatch, code=1, stderr=error)
    with pytest.raises(RuntimeError, match="InvalidArgumentError"):
        check_standalone(empty_export, **arguments)


def run_script(monkeypatch, folder):
    """Runs the script in this process, which has loaded TensorFlow.

    Returns the exit code.
    """
    with monkeypatch.context() as patch:
        # The script replaces this entry. Afterwards `patch` restores it.
        patch.setitem(sys.modules, "align_keras", sys.modules["align_keras"])
        patch.setattr(sys, "argv", [standalone.__file__, str(folder)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(standalone.__file__, run_name="__main__")
    return caught.value.code


def write_request(folder, export, image, captions=()):
    (folder / "images").mkdir()
    (folder / "images" / "0").write_bytes(image)
    request = {"export": str(export), "captions": list(captions)}
    (folder / "request.json").write_text(json.dumps(request))


def test_the_script_blocks_imports_of_the_package(
    tiny_export, tmp_path, monkeypatch, capsys
):
    model = load_model(tiny_export)
    write_request(tmp_path, tiny_export, tiny.image_bytes("red"), ["green"])
    image_embeddings = model.encode_images([tmp_path / "images" / "0"])
    np.save(tmp_path / "images.npy", image_embeddings + np.float32([0, 0.25, 0, 0]))
    np.save(tmp_path / "captions.npy", model.encode_texts(["green"]))
    assert run_script(monkeypatch, tmp_path) == 0
    # The result is the larger of the two differences.
    assert float(capsys.readouterr().out) == pytest.approx(0.25)


def test_the_script_reports_an_error_in_one_line(
    tiny_export, tmp_path, monkeypatch, capsys
):
    write_request(tmp_path, tiny_export, tiny.image_bytes("red"))
    assert run_script(monkeypatch, tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("FileNotFoundError") and error.count("\n") == 1
