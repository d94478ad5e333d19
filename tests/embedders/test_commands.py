"""Names of models and runtimes in all commands."""

import json

import pytest

from align_keras.cli.main import main
from align_keras.search import Index
from tests.helpers.color_towers import GOLDEN, image_bytes

COMMANDS = {
    "embed": ("embed", "texts.txt", "--to", "out"),
    "index": ("index", "photos", "--index", "index"),
    "search": ("search", "red", "--index", "index"),
    "serve": ("serve", "--index", "index", "--port", "0"),
    "evaluate": ("evaluate", "retrieval", "--data", "photos", "--cache", "cache"),
    "export": ("export", "saved_model", "--to", "exported"),
}
EMBEDS = ("embed", "index", "search", "serve", "evaluate")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with images, texts and an index."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "red.png").write_bytes(image_bytes("red"))
    (tmp_path / "photos" / "red.txt").write_text("red")
    (tmp_path / "texts.txt").write_text("red\n")
    Index.build("index", ["photos"], GOLDEN)

    def command(name, *options):
        capsys.readouterr()
        code = main([*COMMANDS[name], *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_all_commands_report_a_missing_model(run, name):
    code, out, err = run(name, "--model", "nowhere")
    assert (code, out) == (1, "")
    assert "--model='nowhere'" in err


@pytest.mark.parametrize("name", EMBEDS)
def test_all_commands_report_an_unknown_runtime(run, name):
    code, out, err = run(name, "--model", str(GOLDEN), "--runtime", "torch")
    assert (code, out) == (1, "")
    assert "--runtime" in err and "auto, keras, saved_model, litert, onnx" in err


@pytest.mark.parametrize("name", EMBEDS)
def test_all_commands_report_a_runtime_without_files(run, name):
    code, out, err = run(name, "--model", str(GOLDEN), "--runtime", "keras")
    assert (code, out) == (1, "")
    assert "--runtime" in err and str(GOLDEN) in err


@pytest.mark.parametrize("name", ["index", "search", "serve"])
def test_the_runtime_option_requires_a_model(run, name):
    code, out, err = run(name, "--runtime", "litert")
    assert (code, out) == (1, "")
    assert "with --model. Received: --runtime='litert'" in err


def test_search_and_evaluate_run_litert_towers(run):
    model = ("--model", str(GOLDEN), "--runtime", "litert")
    code, out, _ = run("search", *model, "--json")
    assert code == 0
    assert json.loads(out)["queries"][0]["hits"][0]["path"].endswith("red.png")
    code, out, err = run("evaluate", *model, "--json")
    assert code == 0, err
    assert json.loads(out)["metrics"]["t2i/recall_at_1"] == 1.0
