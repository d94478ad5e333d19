"""`align-keras convert`: both directions and wrong inputs."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from align_keras.cli.main import main
from tests.helpers.align_folders import random_pairs, tiny_align, write_align_folder
from tests.helpers.oracle_process import call_oracle, needs
from tests.helpers.small import VOCABULARY, small_align

FILE = "model.safetensors"


def convert(capsys, *arguments):
    """Runs the command. Returns the exit code and the last line of stderr."""
    code = main(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err.strip().splitlines()[-1]


@pytest.mark.ci
def test_a_conversion_and_its_inverse_restore_the_model(tmp_path, capsys):
    from align_keras.models import ALIGN

    # The names of the tensors are those that transformers writes.
    hf = tiny_align()
    assert convert(capsys, "hf", hf, "--to", tmp_path / "run")[0] == 0
    # The target may be an empty folder.
    (tmp_path / "back").mkdir()
    code, line = convert(capsys, "keras", tmp_path / "run", "--to", tmp_path / "back")
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
    code, line = convert(capsys, "keras", tmp_path / "run", "--to", tmp_path / "back")
    assert (code, "which contains files" in line) == (1, True)


def assert_equal_tensors(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        # The counter of batches does not affect the outputs of a model.
        if not name.endswith("num_batches_tracked"):
            # The conversion stores the temperature as a logarithm, which rounds it.
            np.testing.assert_allclose(actual[name], value, rtol=1e-6)


@pytest.mark.ci
@needs("torch", "transformers")
def test_transformers_opens_the_converted_model(tmp_path, capsys):
    write_align_folder(tmp_path, "tiny")
    run, back = tmp_path / "run", tmp_path / "back"
    assert convert(capsys, "hf", tmp_path, "--to", run)[0] == 0
    assert convert(capsys, "keras", run, "--to", back)[0] == 0
    assert_equal_tensors(
        *(call_oracle("hugging_face", "tensors", folder) for folder in (back, tmp_path))
    )


@pytest.mark.ci
def test_a_model_that_transformers_cannot_represent_is_refused(tmp_path, capsys):
    small_align().save_to_preset(tmp_path / "run")
    code, line = convert(capsys, "keras", tmp_path / "run", "--to", tmp_path / "hf")
    assert code == 1
    assert line.startswith(
        "align-keras convert: error: A model must have only parts that transformers."
    )
    assert not (tmp_path / "hf").exists()


def test_a_missing_source_is_refused(tmp_path, capsys):
    code, line = convert(capsys, "hf", tmp_path / "no", "--to", tmp_path / "run")
    assert (code, "preset" in line) == (1, True)


def test_an_empty_source_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, line = convert(capsys, "hf", tmp_path / "empty", "--to", tmp_path / "run")
    assert code == 1
    assert "config.json" in line
    assert not (tmp_path / "run").exists()


# Runs commands in a process that can write files of 100 kB at most.
WITH_FILE_SIZE_LIMIT = """
import os, resource, signal, sys
from align_keras.cli.main import main
hf, run, folder = sys.argv[1:]
assert main(["convert", "hf", hf, "--to", run]) == 0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
print("limited", file=sys.stderr)
codes = [main(["convert", "hf", hf, "--to", f"{folder}/run"])]
codes += [main(["convert", "keras", run, "--to", f"{folder}/hf"])]
codes += [main(["export", "--model", run, "--to", f"{folder}/export"])]
assert codes == [1, 1, 1], codes
assert os.listdir(folder) == [], os.listdir(folder)
"""


@pytest.mark.release
def test_a_file_size_limit_prints_one_line_and_leaves_no_file(tmp_path):
    (tmp_path / "limited").mkdir()
    folders = (tiny_align(), tmp_path / "run", tmp_path / "limited")
    result = subprocess.run(
        [sys.executable, "-c", WITH_FILE_SIZE_LIMIT, *map(str, folders)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stderr.partition("limited\n")[2].splitlines()
    errors = [line for line in lines if "error: " in line]
    assert len(errors) == 3 and "Traceback" not in result.stderr, lines
    assert all("too large" in line or "No space" in line for line in errors), lines
