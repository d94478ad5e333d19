"""`align-keras convert`, both ways, and its wrong inputs."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from align_keras.cli.main import main
from tests.helpers.align_folders import random_pairs, tiny_align, write_align_folder
from tests.helpers.oracle_process import ask, needs
from tests.helpers.small import VOCABULARY, small_align

FILE = "model.safetensors"


def answer(capsys, *arguments):
    code = main(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err.strip().splitlines()[-1]


@pytest.mark.ci
def test_there_and_back(tmp_path, capsys):
    from align_keras.models import ALIGN

    hf = tiny_align()  # transformers wrote its tensors' names.
    assert answer(capsys, "hf", hf, "--to", tmp_path / "run")[0] == 0
    (tmp_path / "back").mkdir()  # An empty folder may be there.
    code, line = answer(capsys, "keras", tmp_path / "run", "--to", tmp_path / "back")
    assert code == 0
    assert "transformers.AlignModel.from_pretrained" in line
    inputs = random_pairs(64, 64, length=8, vocabulary_size=len(VOCABULARY))
    embeddings = [
        ALIGN.from_preset(folder)(inputs)["image_embedding"]
        for folder in (hf, tmp_path / "run", tmp_path / "back")
    ]
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    np.testing.assert_array_equal(embeddings[0], embeddings[2])
    assert_equal_tensors(*(load_file(f / FILE) for f in (tmp_path / "back", hf)))
    code, line = answer(capsys, "keras", tmp_path / "run", "--to", tmp_path / "back")
    assert (code, "which holds something" in line) == (1, True)


def assert_equal_tensors(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):  # Nothing reads it.
            # exp(log(t)) of the temperature rounds.
            np.testing.assert_allclose(actual[name], value, rtol=1e-6)


@pytest.mark.ci
@needs("torch", "transformers")
def test_transformers_opens_what_comes_back(tmp_path, capsys):
    write_align_folder(tmp_path, "tiny")
    run, back = tmp_path / "run", tmp_path / "back"
    assert answer(capsys, "hf", tmp_path, "--to", run)[0] == 0
    assert answer(capsys, "keras", run, "--to", back)[0] == 0
    assert_equal_tensors(
        *(ask("hugging_face", "tensors", folder) for folder in (back, tmp_path))
    )


@pytest.mark.ci
def test_a_model_without_a_place_in_transformers(tmp_path, capsys):
    small_align().save_to_preset(tmp_path / "run")
    code, line = answer(capsys, "keras", tmp_path / "run", "--to", tmp_path / "hf")
    assert code == 1
    assert line.startswith("align-keras convert: error: transformers.AlignModel has no")
    assert not (tmp_path / "hf").exists()


def test_a_source_that_is_no_folder(tmp_path, capsys):
    code, line = answer(capsys, "hf", tmp_path / "no", "--to", tmp_path / "run")
    assert (code, "SOURCE must be a folder" in line) == (1, True)


def test_a_target_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "hf").mkdir()
    monkeypatch.chdir(tmp_path)
    code, line = answer(capsys, "hf", tmp_path / "hf", "--to", ".")
    assert (code, "which is or holds the current folder" in line) == (1, True)


def test_an_empty_source(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, line = answer(capsys, "hf", tmp_path / "empty", "--to", tmp_path / "run")
    assert code == 1
    assert "config.json" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("format", ["torch", "hg"])
def test_an_unknown_format(format, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["convert", format, "a", "--to", "b"])
    assert caught.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


FULL = """
import os, resource, signal, sys
from align_keras.cli.main import main
hf, run, folder = sys.argv[1:]
assert main(["convert", "hf", hf, "--to", run]) == 0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
print("full", file=sys.stderr)
codes = [main(["convert", "hf", hf, "--to", f"{folder}/run"])]
codes += [main(["convert", "keras", run, "--to", f"{folder}/hf"])]
codes += [main(["export", "--model", run, "--to", f"{folder}/export"])]
assert codes == [1, 1, 1], codes
assert os.listdir(folder) == [], os.listdir(folder)
"""


@pytest.mark.release
def test_a_full_disk_takes_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "full").mkdir()
    folders = (tiny_align(), tmp_path / "run", tmp_path / "full")
    answer = subprocess.run(
        [sys.executable, "-c", FULL, *map(str, folders)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    lines = answer.stderr.partition("full\n")[2].splitlines()
    errors = [line for line in lines if "error: " in line]
    assert len(errors) == 3 and "Traceback" not in answer.stderr, lines
    assert all("too large" in line or "No space" in line for line in errors), lines
