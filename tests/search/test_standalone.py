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
    images = [tiny.picture_bytes(color) for color in colors]
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
    assert [found["query"] for found in result["top"]] == [
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


def answers(monkeypatch, code=0, stdout="", stderr=""):
    """Replaces the process, whose own start takes seconds, by its answer."""
    done = subprocess.CompletedProcess([], code, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)


@pytest.mark.parametrize("difference", ["0.5", "NaN"])
def test_other_embeddings_are_a_failure(tiny_export, monkeypatch, difference):
    answers(monkeypatch, stdout=f'{{"max_abs_difference": {difference}}}')
    with pytest.raises(RuntimeError, match="within 0.0001, but differs by .*tokenizer"):
        check_standalone(tiny_export, captions=["red"], text_embeddings=np.eye(4)[:1])
    answers(monkeypatch, stdout='{"max_abs_difference": 0.00009}')
    result = check_standalone(tiny_export, captions=["red"])
    assert result == {"max_abs_difference": 0.00009}


def test_a_process_that_fails_is_told_in_one_line(tiny_export, monkeypatch):
    answers(monkeypatch, code=1, stderr="a note\nInvalidArgumentError: no picture\n")
    with pytest.raises(RuntimeError, match="process of its own: InvalidArgumentError"):
        check_standalone(tiny_export, images=[b"no picture"])
    answers(monkeypatch, code=-9)
    with pytest.raises(RuntimeError, match="process of its own: no message"):
        check_standalone(tiny_export)


def test_a_process_that_hangs(tiny_export, monkeypatch):
    def hang(*arguments, **options):
        raise subprocess.TimeoutExpired("python", options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(RuntimeError, match="no answer .* within 2 seconds"):
        check_standalone(tiny_export, timeout=2)


def test_wrong_arguments(tmp_path, tiny_export):
    with pytest.raises(InputError, match="must contain saved_model.pb"):
        check_standalone(tmp_path)
    with pytest.raises(InputError, match="`index` must be given"):
        check_standalone(tiny_export, queries=["red"])


def run_script(monkeypatch, folder):
    """Runs it here, where TensorFlow is loaded already; returns its exit code."""
    with monkeypatch.context() as patch:
        # Restores the entry that the script blocks.
        patch.setitem(sys.modules, "align_keras", sys.modules["align_keras"])
        patch.setattr(sys, "argv", [standalone.__file__, str(folder)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(standalone.__file__, run_name="__main__")
    return caught.value.code


def ask(folder, export, image, captions=()):
    (folder / "images").mkdir()
    (folder / "images" / "0").write_bytes(image)
    asked = {"export": str(export), "captions": list(captions)}
    (folder / "asked.json").write_text(json.dumps(asked))


def test_the_script_blocks_the_package_even_where_it_is_importable(
    tiny, tiny_export, tmp_path, monkeypatch, capsys
):
    model = load_model(tiny_export)
    ask(tmp_path, tiny_export, tiny.picture_bytes("red"), ["green"])
    image_embeddings = model.encode_images([tmp_path / "images" / "0"])
    np.save(tmp_path / "images.npy", image_embeddings + np.float32([0, 0.25, 0, 0]))
    np.save(tmp_path / "captions.npy", model.encode_texts(["green"]))
    assert run_script(monkeypatch, tmp_path) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["align_keras_importable"] is False
    # The larger of both differences.
    assert result["max_abs_difference"] == pytest.approx(0.25)


def test_the_script_tells_in_one_line_what_failed(
    tiny_export, tmp_path, monkeypatch, capsys
):
    ask(tmp_path, tiny_export, b"no picture")
    assert run_script(monkeypatch, tmp_path) == 1
    assert capsys.readouterr().err.startswith("ValueError: image_bytes 0 is no")
