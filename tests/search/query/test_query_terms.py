"""Weights of words, several images, and images at addresses in a query."""

import json

import pytest

from align_keras.cli.main import main
from align_keras.search.image_index import Index
from align_keras.search.query.query import Query
from tests.helpers.color_towers import GOLDEN
from tests.helpers.web_server import WebServer

pytestmark = pytest.mark.ci


@pytest.fixture
def index(photos, tmp_path):
    return Index.build(tmp_path / "index", [photos], str(GOLDEN))


@pytest.fixture
def address(photos):
    """Returns the address of a web server with the photos."""
    paths = [path for path in photos.rglob("*") if path.is_file()]
    files = {path.relative_to(photos).as_posix(): path.read_bytes() for path in paths}
    with WebServer(files) as server:
        yield server.url


def names(hits):
    return [hit.columns["name"] for hit in hits]


def test_the_heavier_word_decides(index):
    assert names(index.query(Query("red^3", plus="blue")))[0] == "red.png"
    assert names(index.query(Query("red", plus="blue^3")))[0] == "blue.jpg"
    assert Query("red^3", minus="blue^2").words == ["red", "blue"]


def test_several_images_count_equally(index, photos):
    ids = {hit.columns["name"]: hit.id for hit in index.query("red")}
    files = [photos / "red.png", photos / "Italy" / "blue.jpg"]
    by_file = index.query(Query(image=files))
    by_id = index.query(Query(image=[ids["red.png"], ids["blue.jpg"]]))
    assert names(by_file)[2] == "green.png"
    assert [hit.score for hit in by_file] == pytest.approx(
        [hit.score for hit in by_id], abs=1e-5
    )
    assert by_file[0].score == pytest.approx(by_file[1].score, abs=1e-2)


def test_the_command_fetches_images_at_addresses(index, address, capsys):
    command = ["search", "--index", str(index.folder), "--json"]
    images = ["--image", f"{address}/red.png", "--plus-image"]
    assert main([*command, *images, f"{address}/Italy/blue.jpg"]) == 0
    [result] = json.loads(capsys.readouterr().out)["queries"]
    assert result["image"] == f"{address}/red.png"
    assert result["plus_images"] == [f"{address}/Italy/blue.jpg"]
    assert result["hits"][2]["columns"]["name"] == "green.png"
    for words, message in (
        (["--image", f"{address}/none.png"], "none.png"),
        (["--image", f"{address}/broken.jpg"], "broken.jpg"),
        (["red", "--plus-image", "a.png"], "--plus-image must"),
        (["red^0"], "'red^0'"),
    ):
        assert main([*command, *words]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.strip().count("\n") == 0
