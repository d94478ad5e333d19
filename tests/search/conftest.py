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
