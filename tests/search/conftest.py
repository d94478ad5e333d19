import pathlib
import runpy

import pytest


@pytest.fixture(scope="session")
def tiny():
    """The names of tiny_export.py; test folders are no packages."""
    return runpy.run_path(pathlib.Path(__file__).with_name("tiny_export.py"))


@pytest.fixture(scope="session")
def tiny_export(tiny, tmp_path_factory):
    return tiny["write_tiny_export"](tmp_path_factory.mktemp("run") / "export")


@pytest.fixture(scope="session")
def colors():
    """The names of color_towers.py."""
    return runpy.run_path(pathlib.Path(__file__).with_name("color_towers.py"))


@pytest.fixture
def photos(tmp_path, colors):
    """A folder of images, one of them in a subfolder, and one that is none."""
    folder = tmp_path / "photos"
    (folder / "Italy").mkdir(parents=True)
    for color in ("red", "green"):
        (folder / f"{color}.png").write_bytes(colors["image_bytes"](color))
    (folder / "Italy" / "blue.jpg").write_bytes(
        colors["image_bytes"]("blue", (40, 24), "JPEG")
    )
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder
