"""Packages whose import raises another error than `ImportError`."""

import importlib
import sys

import pytest

from align_keras.utils.optional_packages import raise_import_error_if_broken


def load(tmp_path, monkeypatch, code):
    """Imports a package with this code."""
    (tmp_path / "broken_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.delitem(sys.modules, "broken_package", raising=False)
    raise_import_error_if_broken("broken_package")
    return importlib.import_module("broken_package")


def test_an_error_of_a_library_becomes_an_import_error(tmp_path, monkeypatch):
    with pytest.raises(ImportError, match="undefined symbol$") as info:
        load(tmp_path, monkeypatch, "raise RuntimeError('undefined symbol')")
    assert info.value.name == "broken_package"
    assert isinstance(info.value.__cause__, RuntimeError)
    # A second import fails in the same way, as that of a missing package does.
    with pytest.raises(ImportError, match="undefined symbol"):
        importlib.import_module("broken_package")


def test_an_import_error_is_not_changed(tmp_path, monkeypatch):
    with pytest.raises(ModuleNotFoundError, match="'other_package'"):
        load(tmp_path, monkeypatch, "import other_package")


def test_a_package_that_loads_is_not_changed(tmp_path, monkeypatch):
    assert load(tmp_path, monkeypatch, "value = 3").value == 3
