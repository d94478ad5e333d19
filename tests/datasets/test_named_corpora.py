"""Tests of `open_corpus`: names, options and missing packages."""

import pytest
import tensorflow_datasets as tfds

from align_keras.datasets import Icons, Stamps, open_corpus
from align_keras.datasets import icons as icons_module
from align_keras.utils.errors import InputError


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("icons/de", {}, "icons/de"),
        ("stamps/xx", {}, "language"),
        ("pairs", {}, "pairs"),
        ("icons+stamps", {"pairs": "x.csv"}, "pairs"),
        ("icons+photos", {}, "photos"),
        ("icons", {"max_bad_fraction": 10}, "max_bad_fraction"),
        ("icons", {"where": "similarity > 0"}, "where"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path, name, options, word):
    with pytest.raises(InputError, match=word):
        open_corpus(name, data_dir=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_the_missing_package_of_the_stamps_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_KERAS_STAMPS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="apt-get install tuxpaint-stamps-default"):
        open_corpus("stamps", data_dir=tmp_path)
    assert not list(tmp_path.rglob("1.0.0"))


def test_missing_qtawesome_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(icons_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "align-keras\[quickstart\]"'):
        open_corpus("icons", data_dir=tmp_path)


def test_importing_registers_the_builders():
    for builder in (Icons, Stamps):
        assert tfds.builder_cls(builder.name) is builder
