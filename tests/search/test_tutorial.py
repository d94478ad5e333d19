"""Runs the tutorial of the documentation with the shipped model."""

import pathlib
import runpy

PAGES = pathlib.Path(__file__).parents[2] / "docs" / "pages"


def test_the_tutorial_searches_a_folder(photos, tmp_path, capsys, monkeypatch):
    script = PAGES / "tutorials" / "search_images.py"
    monkeypatch.setattr("sys.argv", [script.name, str(photos), str(tmp_path / "index")])
    runpy.run_path(str(script))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 images, 3 of them new")
    # Three hits, three hits, and the only image that is wider than high.
    assert [line.split(".")[0] for line in lines[1:]] == list("1231231")
    assert lines[-1].endswith("blue.jpg")
