import json
import runpy
import subprocess
import sys

import numpy as np
import pytest

from align_keras import load_model
from align_keras.search import Index, standalone
from align_keras.search.standalone import check_standalone
from align_keras.utils.errors import InputError


@pytest.mark.ci
def test_the_export_embeds_and_searches_without_align_keras(
    tiny, tiny_export, tmp_path
):
    colors = list(tiny.COLORS)
    images = [tiny.image_bytes(color) for color in colors]
    captions = ["red", "ein grünes — green", "blue red"]
    model = load_model(tiny_export)
    image_embeddings = model.encode_images(images)
    captions_of_images = ["a", "b", ["ç", "d"]]
    Index.from_embeddings(
        image_embeddings, colors, captions_of_images, folder=tmp_path / "index"
    )
    result = check_standalone(
        tiny_export,
        images=images,
        image_embeddings=image_embeddings,
        captions=captions,
        text_embeddings=model.encode_texts(captions),
        index=tmp_path / "index",
        queries=["--blue ü blue", "red", "-ü"],
    )
    assert result["align_keras_importable"] is False
    assert (result["images"], result["captions"]) == (3, 3)
    assert 0 <= result["max_abs_difference"] < 1e-6
    assert [entry["query"] for entry in result["top"]] == [
        "--blue ü blue",
        "red",
        "-ü",
    ]
    assert [hit["id"] for hit in result["top"][0]["hits"]][0] == "blue"
    assert len(result["top"][1]["hits"]) == 3
    best = result["top"][1]["hits"][0]
    assert (best["rank"], best["id"], best["captions"]) == (1, "red", ["a"])
    expected = model.encode_texts(["red"]) @ image_embeddings[0]
    assert best["score"] == pytest.approx(expected.item(), abs=1e-6)


def replace_process(monkeypatch, code=0, stdout="", stderr=""):
    """Replaces the process, whose start takes seconds, with a result."""
    done = subprocess.CompletedProcess([], code, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)


@pytest.mark.parametrize("difference", ["0.5", "NaN"])
def test_embeddings_that_differ_raise_an_error(tiny_export, monkeypatch, difference):
    replace_process(monkeypatch, stdout=f'{{"max_abs_difference": {difference}}}')
    message = "within 0.0001. Received: a difference of .*tokenizer"
    with pytest.raises(RuntimeError, match=message):
        check_standalone(tiny_export, captions=["red"], text_embeddings=np.eye(4)[:1])
    replace_process(monkeypatch, stdout='{"max_abs_difference": 0.00009}')
    result = check_standalone(tiny_export, captions=["red"])
    assert result == {"max_abs_difference": 0.00009}


def test_a_failed_process_is_reported_in_one_line(tiny_export, monkeypatch):
    error = "a note\nInvalidArgumentError: no image\n"
    replace_process(monkeypatch, code=1, stderr=error)
    with pytest.raises(RuntimeError, match="separate process: InvalidArgumentError"):
        check_standalone(tiny_export, images=[b"no image"])
    replace_process(monkeypatch, code=-9)
    with pytest.raises(RuntimeError, match="separate process: no message"):
        check_standalone(tiny_export)


def test_a_process_that_hangs_is_stopped(tiny_export, monkeypatch):
    def hang(*arguments, **options):
        raise subprocess.TimeoutExpired("python", options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(RuntimeError, match="did not finish .* within 2 seconds"):
        check_standalone(tiny_export, timeout=2)


def test_wrong_arguments_raise_errors(tmp_path, tiny_export):
    with pytest.raises(InputError, match="must contain saved_model.pb"):
        check_standalone(tmp_path)
    with pytest.raises(InputError, match="`index` must be set"):
        check_standalone(tiny_export, queries=["red"])


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
    tiny, tiny_export, tmp_path, monkeypatch, capsys
):
    model = load_model(tiny_export)
    write_request(tmp_path, tiny_export, tiny.image_bytes("red"), ["green"])
    image_embeddings = model.encode_images([tmp_path / "images" / "0"])
    np.save(tmp_path / "images.npy", image_embeddings + np.float32([0, 0.25, 0, 0]))
    np.save(tmp_path / "captions.npy", model.encode_texts(["green"]))
    assert run_script(monkeypatch, tmp_path) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["align_keras_importable"] is False
    # The result is the larger of the two differences.
    assert result["max_abs_difference"] == pytest.approx(0.25)


def test_the_script_reports_an_error_in_one_line(
    tiny_export, tmp_path, monkeypatch, capsys
):
    write_request(tmp_path, tiny_export, b"no image")
    assert run_script(monkeypatch, tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("ValueError: image_bytes 0 is not a valid image")
