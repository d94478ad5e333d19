import argparse
import json
import pathlib
import shlex

import pytest

from align_keras.cli import search
from align_keras.cli.main import main, parse_arguments
from align_keras.search import ExportedModel, SearchIndex
from align_keras.utils.errors import InputError
from tests.helpers import tiny_export

TINY = vars(tiny_export)


def parse(*arguments):
    parser = argparse.ArgumentParser(prog="align-keras search")
    search.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    TINY["write_tiny_export"](folder / "export")
    images = [TINY["picture_bytes"](color) for color in TINY["COLORS"]]
    embeddings = ExportedModel(folder / "export").encode_images(images)
    SearchIndex.build(
        embeddings,
        ["fa-red", "fa-green", "fa-blue"],
        ["[bold]a red \x1b[31mone", ["leaf", "grass"], "the sea " * 30],
        thumbnails=images,
    ).save(folder / "index")
    (folder / "query.png").write_bytes(TINY["picture_bytes"]((10, 200, 20)))
    return folder


def test_json_for_texts(run_folder, capsys):
    arguments = parse("--model_dir", run_folder, "--json", "-k", 2, "blue", "red green")
    assert search.run(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert [query["text"] for query in result["queries"]] == ["blue", "red green"]
    hits = result["queries"][0]["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2]
    assert hits[0]["id"] == "fa-blue"
    assert hits[0]["captions"] == ["the sea " * 30]
    assert hits[0]["score"] > 0.99 > hits[1]["score"]
    assert pathlib.Path(hits[0]["thumbnail"]).read_bytes() == TINY["picture_bytes"](
        "blue"
    )
    # A tie between red and green: the order of the rows.
    assert [hit["id"] for hit in result["queries"][1]["hits"]] == ["fa-red", "fa-green"]


def test_json_for_a_picture(run_folder, capsys):
    image = run_folder / "query.png"
    search.run(parse("--model_dir", run_folder, "--image", image, "--json", "-k", 9))
    (query,) = json.loads(capsys.readouterr().out)["queries"]
    assert query["image"] == str(image)
    assert [hit["id"] for hit in query["hits"]] == ["fa-green", "fa-blue", "fa-red"]


def ids_of(run_folder, capsys, *arguments):
    search.run(parse("--model_dir", run_folder, "--json", *arguments))
    (query,) = json.loads(capsys.readouterr().out)["queries"]
    return query, [hit["id"] for hit in query["hits"]]


def test_an_image_and_words_in_one_query(run_folder, capsys):
    image = run_folder / "query.png"  # Green.
    arguments = ("--image", image, "blue", "--text-weight", 2)
    query, ids = ids_of(run_folder, capsys, *arguments)
    assert ids == ["fa-blue", "fa-green", "fa-red"]
    assert (query["plus"], query["minus"]) == (["blue"], [])
    # By default the text weighs less than the image.
    arguments = ("--image", image, "--plus", "blue")
    assert ids_of(run_folder, capsys, *arguments)[1][0] == "fa-green"
    words = ("--minus", "green", "--plus", "red")
    arguments = ("--image", image, *words, "--text-weight", 2)
    query, ids = ids_of(run_folder, capsys, *arguments)
    assert ids[0] == "fa-red" and ids[-1] == "fa-green"
    model = ExportedModel(run_folder / "export")
    expected = model.encode_query(image, plus="red", minus=["green"])
    _, scores = SearchIndex.load(run_folder / "index").query(expected, 1)
    assert query["hits"][0]["score"] == pytest.approx(scores[0, 0], abs=1e-6)


def test_words_taken_from_words(run_folder, capsys):
    arguments = ("red green", "--minus", "green")
    query, ids = ids_of(run_folder, capsys, *arguments)
    assert query["text"] == "red green" and ids[0] == "fa-red"
    search.run(parse("--model_dir", run_folder, *arguments))
    assert "red green − green" in capsys.readouterr().out


def test_table_shows_all_and_interprets_nothing(run_folder, capsys):
    assert search.run(parse("--model_dir", run_folder, "red", "[link]green")) == 0
    out = capsys.readouterr().out
    for expected in (
        "rank",
        "score",
        "caption",
        "fa-red",
        "leaf | grass",
        "[link]green",
    ):
        assert expected in out
    assert "[bold]a red  [31mone" in out
    assert "\x1b" not in out
    # Long captions are folded, not cut.
    assert out.count("the sea") >= 60
    assert out.index("fa-red") < out.index("fa-green")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model_dir", "RUN", "--index", "X", "red"],
        ["--model_dir", "RUN", "red", "--text-weight", "0"],
        ["--model_dir", "RUN", "red", "--text-weight", "two"],
        ["--model_dir", "RUN", "-k", "0", "red"],
        ["--model_dir", "RUN", "-k", "many", "red"],
    ],
)
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_wrong_run_folders_and_queries(run_folder, tmp_path):
    with pytest.raises(InputError, match="index folder .*has none"):
        search.run(parse("--model_dir", tmp_path, "red"))
    SearchIndex.load(run_folder / "index").save(tmp_path / "index")
    with pytest.raises(InputError, match="export folder .*doesn't exist"):
        search.run(parse("--model_dir", tmp_path, "red"))
    with pytest.raises(InputError, match="missing.png"):
        search.run(parse("--model_dir", run_folder, "--image", "missing.png"))
    for blank in ([" "], ["red", "--minus", ""]):
        with pytest.raises(InputError, match="`text` must not be blank"):
            search.run(parse("--model_dir", run_folder, *blank))
    for nothing in ([], ["--plus", "red"]):
        with pytest.raises(
            InputError, match="needs `text` or `image`, received neither"
        ):
            search.run(parse("--model_dir", run_folder, *nothing))
    with pytest.raises(InputError, match="`text_weight` weighs words beside"):
        search.run(parse("--model_dir", run_folder, "red", "--text-weight", 3))
    with pytest.raises(InputError, match="cancel out"):
        search.run(parse("--model_dir", run_folder, "red", "--minus", "red"))


def test_mistakes_name_the_options(run_folder, capsys):
    command = ["search", f"--model_dir={run_folder}"]
    for words, expected in (
        ([], "a search needs TEXT or --image, received neither; name what to look for"),
        ([" "], "TEXT must not be blank"),
        (["red", "--text-weight=3"], "--text-weight weighs words beside an image"),
    ):
        assert main([*command, *words]) == 1
        assert f"align-keras search: error: {expected}" in capsys.readouterr().err


def test_a_search_in_python(run_folder):
    from align_keras.search.run_search import search as search_in

    first, second = search_in(run_folder, ["red", "green"], plus=["dark"], k=2)
    assert (first["text"], first["plus"], first["minus"]) == ("red", ["dark"], [])
    assert [hit["rank"] for hit in second["hits"]] == [1, 2]
    assert set(first["hits"][0]) >= {"rank", "score", "id", "captions"}


def test_index_of_another_run(run_folder, tmp_path):
    import numpy as np

    (tmp_path / "export").symlink_to(run_folder / "export")
    SearchIndex.build(np.eye(3), ["a", "b", "c"]).save(tmp_path / "index")
    with pytest.raises(InputError, match=r"\(queries, 3\) .*same run"):
        search.run(parse("--model_dir", tmp_path, "red"))


def test_a_run_without_an_index_names_the_command_that_builds_one(run_folder, tmp_path):
    (tmp_path / "params.yaml").write_text("")
    with pytest.raises(InputError, match="holds no trained model; let it end: `align"):
        search.run(parse("--model_dir", tmp_path, "red"))
    (tmp_path / "config.json").write_text("{}")
    command = (
        f"`align-keras train --config_file {tmp_path}/params.yaml "
        f"--model_dir {tmp_path} --mode index`"
    )
    with pytest.raises(InputError, match="index and export, ") as caught:
        search.run(parse("--model_dir", tmp_path, "red"))
    assert command in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "export").symlink_to(run_folder / "export")
    with pytest.raises(InputError, match="a finished run without index, which"):
        search.run(parse("--model_dir", tmp_path, "red"))
    # The command that it names is one.
    arguments = shlex.split(command.strip("`"))[1:]
    assert parse_arguments(arguments).mode == "index"


def test_only_a_finished_run_is_indexed(tmp_path, capsys):
    arguments = ["train", f"--model_dir={tmp_path}", "--mode=index"]
    assert main(arguments) == 1
    assert "has neither config.json nor params.yaml" in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text("")
    assert main(arguments) == 1
    assert "holds no trained model" in capsys.readouterr().err


def test_what_is_shown_stays_short(capsys):
    hit = {"score": 0.5, "id": "a", "captions": [f"caption {n}" for n in range(50)]}
    search.print_found("cats", [hit])
    shown = capsys.readouterr().out
    assert "caption 2" in shown and "47 more" in shown and "caption 3" not in shown
    search.print_found("cats", [])
    assert capsys.readouterr().out.startswith("cats: nothing found")


@pytest.mark.parametrize("columns, is_table", [(80, True), (60, False)])
def test_a_table_is_shown_where_ids_stay_whole(columns, is_table, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    id = "fontawesome6-solid/magnifying-glass-chart"
    hit = {"score": 0.5, "id": id, "captions": ["magnifying glass chart"]}
    search.print_found("cats", [hit])
    shown = capsys.readouterr().out
    assert id in shown and ("│" in shown) == is_table


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--model_dir", "nowhere", "cat"), "--model_dir must be the folder of a fini"),
        (("--null", "cat"), "-0 belongs to --paths"),
    ],
)
def test_what_is_not_there_and_what_belongs_together(arguments, message, capsys):
    assert main(["search", *arguments]) == 1
    assert message in capsys.readouterr().err
