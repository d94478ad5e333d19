"""Mistakes in what the corpus command is given: each takes one line."""

import contextlib
import pathlib
import sys

import pytest

from align_keras.cli.main import main
from align_keras.utils.files import locked
from tests.helpers import small_corpus
from tests.helpers.small_corpus import ONE_WORKER, arguments


@pytest.mark.parametrize(
    "given, said",
    [
        (["build"], "A corpus needs a source. Name one by --source"),
        (["build", "--source=zip:/"], "source must be KIND:PATH"),
        (["build", "--source=html:nowhere"], "there is no nowhere"),
        (["urls", "--source=html:."], "--to must name a file for the stage urls"),
        (["build", "--source=html:.", "--to=a.csv"], "--to must name a file"),
        (
            ["build", "--source=table:a.csv", "--params_override=filter.min_words=3"],
            "min_words",
        ),
        (
            [
                "build",
                "--source=table:a.csv",
                "--params_override=filter.max_unigrams=2",
            ],
            "filter.min_unigrams",
        ),
        (["build", "--source=table:a.csv", "--config=none.yaml"], "none.yaml"),
        (
            [
                "pictures-hook",
                "--source=table:a.csv",
                "--params_override=images.refuse=no_such_module:refuse",
            ],
            "images.refuse must be module:function",
        ),
        (["shard", "--source=table:a.csv", *ONE_WORKER], "The corpus is empty"),
        (["urls", "--source=table:a.csv", "--to=a.txt", *ONE_WORKER], ".parquet, .csv"),
        (["build", "--source=html:empty"], "must have files of kind html"),
    ],
)
def test_mistakes_take_one_line(given, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("empty").mkdir()
    pathlib.Path("a.csv").write_text("image,caption\nnone.png,a cat on a mat\n")
    stage = {"pictures-hook": "dedup"}.get(given[0], given[0])
    more = ONE_WORKER if given[0] == "pictures-hook" else ()
    assert main(["corpus", stage, "--out=out", *given[1:], *more]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.startswith("align-keras corpus: error: ") and said in last
    others = captured.err.splitlines()[:-1]
    assert all(line.startswith("corpus ") for line in others), others


@pytest.mark.ci
def test_a_corpus_whose_images_are_all_copies(tmp_path, capsys):
    source = small_corpus.write_folder(tmp_path / "folder")
    command = arguments("build", [source], tmp_path / "out", *ONE_WORKER)
    assert main([*command, f"--against={source}"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        "The corpus is empty. All of 11 images were dropped (11 near an evaluation"
        in last
    )
    assert "captions" not in last


def test_wrong_usage(capsys):
    wrong = (
        ["corpus"],
        ["corpus", "bild", "--out=a"],
        ["corpus", "build"],
        ["corpus", "build", "--out=a", "--workers=0"],
        ["corpus", "build", "--out=a", "--workers=x"],
    )
    for given in wrong:
        with pytest.raises(SystemExit) as caught:
            main(given)
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.err.splitlines()[-1].startswith("align-keras corpus: error: ")


def test_out_is_a_file(tmp_path, capsys):
    (tmp_path / "out").write_text("x")
    assert main(["corpus", "build", f"--out={tmp_path / 'out'}"]) == 1
    assert "out must be a folder" in capsys.readouterr().err


def test_a_second_command_says_that_it_waits(tmp_path, monkeypatch, capsys):
    pytest.importorskip("fcntl")
    (tmp_path / "a.csv").write_text("image,caption\nnone.png,a cat on a mat\n")
    command = ["corpus", "extract", f"--out={tmp_path}", *ONE_WORKER]
    said = f"corpus: waiting for another align-keras corpus on {tmp_path}"
    with contextlib.ExitStack() as first:
        first.enter_context(locked(tmp_path / "corpus.yaml"))

        def end_the_first(line):
            print(line, file=sys.stderr)
            first.close()

        monkeypatch.setattr("align_keras.runs.corpus_build.say", end_the_first)
        assert main([*command, f"--source=table:{tmp_path / 'a.csv'}"]) == 0
    assert capsys.readouterr().err.splitlines().count(said) == 1
    assert main(command) == 0
    assert said not in capsys.readouterr().err
