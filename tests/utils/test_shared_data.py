"""Locations of data files in a clone of the repository and in an installed package."""

import pytest

from align_keras.utils import shared_data
from align_keras.utils.errors import InputError
from align_keras.utils.shared_data import find_shipped_model, shared_folder

NAME = "align_small_en"


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """Simulates an installed package with data files below the returned folder."""
    monkeypatch.setattr(shared_data, "CLONE_FOLDER", tmp_path / "site-packages")
    monkeypatch.setattr(shared_data.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(shared_data.site, "getuserbase", lambda: str(tmp_path / "user"))
    return tmp_path


def test_a_shipped_model_is_read_from_the_user_installation(installation):
    folder = installation / "user" / "share" / "align_keras" / "saved_models" / NAME
    folder.mkdir(parents=True)
    assert find_shipped_model(NAME) == folder


def test_the_clone_has_priority_over_the_installation(installation):
    root = installation / "site-packages"
    for parent in (root, installation / "share" / "align_keras"):
        (parent / "experiments").mkdir(parents=True)
    assert (
        shared_folder("experiments") == installation / "share/align_keras/experiments"
    )
    (root / "setup.cfg").touch()
    assert shared_folder("experiments") == root / "experiments"


def test_a_missing_or_unknown_model_is_refused(installation):
    with pytest.raises(InputError, match="part of align-keras but isn't installed"):
        find_shipped_model(NAME)
    with pytest.raises(InputError, match=r"align_small_en. Received: name='\.\./x'"):
        find_shipped_model("../x")
