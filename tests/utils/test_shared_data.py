"""Folders beside the package, in a clone and as a wheel installs them."""

import pytest

from align_keras.utils import shared_data
from align_keras.utils.errors import InputError
from align_keras.utils.shared_data import find_shipped_model, shared_folder

NAME = "align_small_en"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package without a clone, whose data files go below `tmp_path`."""
    monkeypatch.setattr(shared_data, "CLONE_FOLDER", tmp_path / "site-packages")
    monkeypatch.setattr(shared_data.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(shared_data.site, "getuserbase", lambda: str(tmp_path / "user"))
    return tmp_path


def test_a_shipped_model_is_found_where_a_wheel_puts_it(installed):
    folder = installed / "user" / "share" / "align_keras" / "saved_models" / NAME
    folder.mkdir(parents=True)
    assert find_shipped_model(NAME) == folder


def test_the_clone_comes_first(installed):
    root = installed / "site-packages"
    for parent in (root, installed / "share" / "align_keras"):
        (parent / "experiments").mkdir(parents=True)
    assert shared_folder("experiments") == installed / "share/align_keras/experiments"
    (root / "setup.cfg").touch()
    assert shared_folder("experiments") == root / "experiments"


def test_a_model_that_is_not_there(installed):
    with pytest.raises(InputError, match="align_small_en isn't installed"):
        find_shipped_model(NAME)
    with pytest.raises(InputError, match=r"align_small_en, received '\.\./x'"):
        find_shipped_model("../x")
