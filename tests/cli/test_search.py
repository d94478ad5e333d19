"""`align-keras search`: its queries, its output and its errors."""

import argparse
import json
import pathlib
import shlex
import shutil

import numpy as np
import pytest

from align_keras import load_model
from align_keras.cli import search
from align_keras.cli.main import main, parse_arguments
from align_keras.runs.run_index import open_run_index, write_run_index
from align_keras.search import Hit, Index, ModelIdentity, Query
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes


def parse(*arguments):
    parser = argparse.ArgumentParser(prog="align-keras search")
    search.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Folder of a run with an export and an index of three images."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(GOLDEN, folder / "export")
    images = [image_bytes(color) for color in COLORS]
    embeddings = load_model(folder / "export").encode_images(images)
    captions = [["[bold]a red \x1b[31mone"], ["leaf", "grass"], ["the sea " * 30]]
    write_run_index(
        folder, embeddings, ["fa-red", "fa-green", "fa-blue"], captions, images
    )
    (folder / "query.png").write_bytes(image_bytes((10, 200, 20)))
    return folder


def test_json_lists_the_hits_of_each_text(run_folder, capsys):
    arguments = parse("--model_dir", run_folder, "--json", "-k", 2, "blue", "red green")
    assert search.run(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert [query["text"] for query in result["queries"]] == [["blue"], ["red green"]]
    hits = result["queries"][0]["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2]
    assert (hits[0]["path"], hits[0]["id"]) == ("fa-blue", 3)
    assert hits[0]["captions"] == ["the sea " * 30]
    assert hits[0]["score"] > 0.99 > hits[1]["score"]
    stored = pathlib.Path(hits[0]["stored_image"])
    assert stored.read_bytes() == image_bytes("blue")
    # Red and green have equal scores, so the order of the rows decides.
    paths = [hit["path"] for hit in result["queries"][1]["hits"]]
    assert paths == ["fa-red", "fa-green"]


def test_json_lists_the_hits_of_an_image(run_folder, capsys):
    image = run_folder / "query.png"
    search.run(parse("--model_dir", run_folder, "--image", image, "--json", "-k", 9))
    (query,) = json.loads(capsys.readouterr().out)["queries"]
    assert query["image"] == str(image)
    paths = [hit["path"] for hit in query["hits"]]
    assert paths == ["fa-green", "fa-blue", "fa-red"]


def search_paths(run_folder, capsys, *arguments):
    """Searches the index of a run. Returns the query of the output and the paths."""
    search.run(parse("--model_dir", run_folder, "--json", *arguments))
    (query,) = json.loads(capsys.readouterr().out)["queries"]
    return query, [hit["path"] for hit in query["hits"]]


def test_the_index_of_a_run_supports_all_options(run_folder, capsys):
    _, paths = search_paths(
        run_folder, capsys, "red", "--where", "captions like '%sea%'"
    )
    assert paths == ["fa-blue"]
    query, paths = search_paths(run_folder, capsys, "--where", "width = 24", "-k", 2)
    assert paths == ["fa-blue", "fa-green"] and query["where"] == "width = 24"
    assert search.run(parse("--model_dir", run_folder, "red", "-0")) == 0
    paths = capsys.readouterr().out.split("\0")
    assert pathlib.Path(paths[0]).read_bytes() == image_bytes("red")
    # The index can also be searched without the run, if the model is named.
    index, export = run_folder / "index", run_folder / "export"
    index_options = ("--index", index, "--model", export)
    search.run(parse(*index_options, "red", "--json"))
    index_result = json.loads(capsys.readouterr().out)
    search.run(parse("--model_dir", run_folder, "red", "--json"))
    assert json.loads(capsys.readouterr().out) == index_result
    assert main(["index", "--check", "--index", str(index)]) == 0
    assert "3 embeddings" in capsys.readouterr().out


def test_duplicates_in_a_run_are_grouped_on_request(run_folder, tmp_path, capsys):
    (tmp_path / "export").symlink_to(run_folder / "export")
    embeddings = load_model(run_folder / "export").encode_texts(["red", "red"])
    write_run_index(tmp_path, embeddings, ["a", "b"], [[], []], None)
    assert search_paths(tmp_path, capsys, "red")[1] == ["a", "b"]
    assert search_paths(tmp_path, capsys, "red", "--duplicates")[1] == ["a", "b"]
    query, paths = search_paths(tmp_path, capsys, "red", "--no-duplicates")
    assert paths == ["a"] and query["hits"][0]["duplicates"] == ["b"]


def test_an_image_and_texts_form_one_query(run_folder, capsys):
    # The image is green.
    image = run_folder / "query.png"
    arguments = ("--image", image, "blue", "--text-weight", 2)
    query, paths = search_paths(run_folder, capsys, *arguments)
    assert paths == ["fa-blue", "fa-green", "fa-red"]
    assert (query["text"], query["plus"], query["minus"]) == (["blue"], [], [])
    # The default weight of a text is smaller than the weight of the image.
    arguments = ("--image", image, "--plus", "blue")
    assert search_paths(run_folder, capsys, *arguments)[1][0] == "fa-green"
    words = ("--minus", "green", "--plus", "red")
    arguments = ("--image", image, *words, "--text-weight", 2)
    query, paths = search_paths(run_folder, capsys, *arguments)
    assert paths[0] == "fa-red" and paths[-1] == "fa-green"
    model = load_model(run_folder / "export")
    (expected,) = model.encode_query(image, plus="red", minus=["green"])
    (hit,) = Index.open(run_folder / "index").query(expected, 1)
    assert query["hits"][0]["score"] == pytest.approx(hit.score, abs=2e-6)


def test_a_text_is_subtracted_from_a_text(run_folder, capsys):
    arguments = ("red green", "--minus", "green")
    query, paths = search_paths(run_folder, capsys, *arguments)
    assert query["text"] == ["red green"] and paths[0] == "fa-red"
    search.run(parse("--model_dir", run_folder, *arguments))
    assert "red green − green" in capsys.readouterr().out


def test_the_output_shows_all_hits_and_escapes_markup(run_folder, capsys):
    assert search.run(parse("--model_dir", run_folder, "red", "[link]green")) == 0
    out = capsys.readouterr().out
    for expected in (
        "score",
        "caption",
        "fa-red",
        "leaf | grass",
        "[link]green",
    ):
        assert expected in out
    assert "[bold]a red  [31mone" in out
    assert "\x1b" not in out
    # Long captions wrap and are not cut.
    assert out.count("the sea") >= 60
    assert out.index("fa-red") < out.index("fa-green")


def test_wrong_run_folders_and_queries_raise_errors(run_folder, tmp_path):
    with pytest.raises(InputError, match="no config.json"):
        search.run(parse("--model_dir", tmp_path, "red"))
    shutil.copytree(run_folder / "index", tmp_path / "index")
    with pytest.raises(InputError, match="`model`.*config.json"):
        search.run(parse("--model_dir", tmp_path, "red"))
    with pytest.raises(InputError, match="missing.png"):
        search.run(parse("--model_dir", run_folder, "--image", "missing.png"))
    for blank_words in ([" "], ["red", "--minus", ""]):
        with pytest.raises(InputError, match="`text`"):
            search.run(parse("--model_dir", run_folder, *blank_words))
    for incomplete_query in ([], ["--plus", "red"]):
        with pytest.raises(InputError, match="`text`"):
            search.run(parse("--model_dir", run_folder, *incomplete_query))
    with pytest.raises(InputError, match="cancel out"):
        search.run(parse("--model_dir", run_folder, "red", "--minus", "red"))


def test_a_run_can_be_searched_in_python(run_folder):
    index = open_run_index(run_folder)
    hits = index.query(Query("red", plus="dark"), k=2)
    assert [hit.rank for hit in hits] == [1, 2] and hits[0].path == "fa-red"
    assert isinstance(hits[0], Hit)


def test_an_index_of_another_model_is_refused(run_folder, tmp_path):
    (tmp_path / "export").symlink_to(run_folder / "export")
    model = ModelIdentity(str(tmp_path / "export"), "0" * 16, 4)
    folder = tmp_path / "index"
    Index.from_embeddings(np.eye(4), list("abcd"), folder=folder, model=model)
    message = "`Index.from_embeddings`"
    with pytest.raises(InputError, match=message):
        search.run(parse("--model_dir", tmp_path, "red"))
    (tmp_path / "params.yaml").write_text("")
    with pytest.raises(InputError, match="--mode index"):
        search.run(parse("--model_dir", tmp_path, "red"))


def test_the_error_for_a_missing_index_names_the_command_to_build_it(
    run_folder, tmp_path
):
    (tmp_path / "params.yaml").write_text("")
    with pytest.raises(InputError, match=r"no config\.json.*`align-keras train"):
        search.run(parse("--model_dir", tmp_path, "red"))
    (tmp_path / "config.json").write_text("{}")
    command = (
        f"`align-keras train --config_file {tmp_path}/params.yaml "
        f"--model_dir {tmp_path} --mode index`"
    )
    with pytest.raises(InputError, match="has no index") as error_info:
        search.run(parse("--model_dir", tmp_path, "red"))
    assert command in str(error_info.value) and "\n" not in str(error_info.value)
    # The command in the message is valid.
    arguments = shlex.split(command.strip("`"))[1:]
    assert parse_arguments(arguments).mode == "index"


def test_only_a_finished_run_is_indexed(tmp_path, capsys):
    arguments = ["train", f"--model_dir={tmp_path}", "--mode=index"]
    assert main(arguments) == 1
    assert "has no config.json" in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text("")
    assert main(arguments) == 1
    assert "`align-keras train" in capsys.readouterr().err


def create_hit(path, captions, relevance=None):
    return Hit(1, 0.5, 1, path, relevance, captions)


def test_the_relevance_is_printed_in_percent(capsys):
    search.print_hits("cats", [create_hit("a", [], 0.29)])
    assert "29%" in capsys.readouterr().out
    search.print_hits("cats", [create_hit("a", [])])
    assert "match" not in capsys.readouterr().out


def test_long_lists_of_captions_are_shortened(capsys):
    search.print_hits("cats", [create_hit("a", [f"caption {n}" for n in range(50)])])
    output = capsys.readouterr().out
    assert "caption 2" in output and "47 more" in output and "caption 3" not in output
    search.print_hits("cats", [])
    assert capsys.readouterr().out.startswith("cats: no images")


@pytest.mark.parametrize("columns", ["100", "30"])
def test_hits_have_one_layout_in_every_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    path = "fontawesome6-solid/magnifying-glass-chart"
    search.print_hits("cats", [create_hit(path, ["a chart"], 0.5)])
    [title, line] = capsys.readouterr().out.splitlines()
    assert title == "cats"
    assert line == f"1. score 0.500 | match 50% | path {path} | caption a chart"
