"""The line about a larger model under the weak hits of photos."""

import dataclasses

import pytest

from align_keras.cli.main import main
from align_keras.search import Index
from align_keras.search.query.photo_advice import PHOTO_MODEL, photo_advice
from tests.helpers.color_towers import GOLDEN
from tests.helpers.drawings import draw
from tests.helpers.serving import request, running_app

WEAK = "a birthday party"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder of 24 images, which match no words."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(24):
        draw(number % 3, number).save(folder / f"{number}.JPG", "JPEG")
    return folder


@pytest.fixture(scope="module")
def index(folder, tmp_path_factory):
    return Index.build(tmp_path_factory.mktemp("index") / "my index", [folder])


def test_weak_photos_have_the_command_of_a_larger_model(index, capsys):
    command = f"align-keras index --rebuild --index '{index.folder}' --model"
    assert main(["search", WEAK, "a cake", "--index", str(index.folder)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"(1.5 GB, Apache-2.0): {command} {PHOTO_MODEL}")
    with running_app(index.folder) as port:
        _, _, answer = request(port, "/api/search", text=WEAK)
        assert "{reason}: {command}".format(**answer["advice"]) == last
        _, _, answer = request(port, "/api/search")
        assert answer["advice"] is None


def test_the_default_index_needs_no_option(index, monkeypatch):
    monkeypatch.setenv("ALIGN_KERAS_INDEX", str(index.folder))
    advice = photo_advice(index.store, index.query(WEAK))
    assert advice.command == f"align-keras index --rebuild --model {PHOTO_MODEL}"


@pytest.mark.parametrize(
    "changes",
    [{"relevance": 0.5}, {"relevance": None}, {"path": "0.png"}],
    ids=["strong", "few images", "drawing"],
)
def test_other_hits_have_no_advice(index, changes):
    first, *others = index.query(WEAK)
    assert photo_advice(index.store, [first, *others])
    assert not photo_advice(index.store, [dataclasses.replace(first, **changes)])


def test_an_index_of_another_model_has_no_advice(folder, tmp_path, index):
    other = Index.build(tmp_path / "index", [folder], str(GOLDEN))
    assert not photo_advice(other.store, index.query(WEAK))
