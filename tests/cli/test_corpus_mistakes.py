"""Wrong options and inputs of `align-keras corpus`: each prints one line."""

import contextlib
import pathlib
import sys

import pytest

from align_keras.cli.main import main
from align_keras.utils.files import locked
from tests.helpers import small_corpus
from tests.helpers.small_corpus import ONE_WORKER, arguments


@pytest.mark.parametrize(
    "words, expected",
    [
        (["dedup", "--params_override=images.refuse=no_module:f"], "images.refuse"),
        (["shard"], "Received: 0 images"),
        (["urls", "--to=a.txt"], ".parquet"),
        (["score", "--params_override=score.hooks.a=no_module:f"], "score.hooks.a"),
    ],
)
def test_wrong_options_print_one_line(words, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("a.csv").write_text("image,caption\nnone.png,a cat on a mat\n")
    assert (
        main(["corpus", *words, "--source=table:a.csv", *ONE_WORKER, "--out=out"]) == 1
    )
    captured = capsys.readouterr()
    assert captured.out == ""
    *progress, error = captured.err.splitlines()
    assert error.startswith("align-keras corpus: error: ") and expected in error
    assert all(line.startswith("corpus ") for line in progress), progress


@pytest.mark.ci
def test_a_corpus_of_evaluation_copies_is_refused(tmp_path, capsys):
    source = small_corpus.write_folder(tmp_path / "folder")
    command = arguments("build", [source], tmp_path / "out", *ONE_WORKER)
    assert main([*command, f"--against={source}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "Received: 11 images" in error
    assert "captions" not in error


def test_a_second_command_reports_that_it_waits(tmp_path, monkeypatch, capsys):
    pytest.importorskip("fcntl")
    (tmp_path / "a.csv").write_text("image,caption\nnone.png,a cat on a mat\n")
    command = ["corpus", "extract", f"--out={tmp_path}", *ONE_WORKER]
    with contextlib.ExitStack() as first_command:
        first_command.enter_context(locked(tmp_path / "corpus.yaml"))

        def end_the_first(line):
            print(line, file=sys.stderr)
            first_command.close()

        monkeypatch.setattr("align_keras.runs.corpus_build.say", end_the_first)
        assert main([*command, f"--source=table:{tmp_path / 'a.csv'}"]) == 0
    error = capsys.readouterr().err
    assert error.count("waiting for") == 1 and f"on {tmp_path}" in error
    assert main(command) == 0
    assert "waiting for" not in capsys.readouterr().err
