"""Locations of data files in a clone of the repository and in an installed package."""

import importlib.machinery
import importlib.util

import pytest

from align_keras.utils import shared_data
from align_keras.utils.errors import InputError
from align_keras.utils.shared_data import find_shipped_model, shared_folder

NAME = "align_small_en"


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """Simulates an installed package in the returned folder."""

    def find_spec(package):
        folder = tmp_path.joinpath(*package.split("."))
        if not folder.is_dir():
            return None
        spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec

    monkeypatch.setattr(shared_data, "CLONE_FOLDER", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return tmp_path


def test_a_shipped_model_is_read_from_the_installation(installation):
    folder = installation / "align_keras" / "saved_models" / NAME
    folder.mkdir(parents=True)
    assert find_shipped_model(NAME) == folder


def test_the_clone_has_priority_over_the_installation(installation):
    for parent in (installation, installation / "align_keras"):
        (parent / "experiments").mkdir(parents=True)
    assert shared_folder("experiments") == installation / "align_keras" / "experiments"
    (installation / "setup.cfg").touch()
    assert shared_folder("experiments") == installation / "experiments"


def test_a_model_that_is_not_installed_is_refused(installation):
    with pytest.raises(InputError, match=NAME):
        find_shipped_model(NAME)
