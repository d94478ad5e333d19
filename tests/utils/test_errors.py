"""Errors for packages that are not installed."""

import pickle
import sys

import pytest

from align_keras.utils.errors import (
    InputError,
    MissingExtraError,
    check_tensorflow,
    needs,
    needs_tensorflow,
)


def test_a_missing_package_is_an_import_error_and_an_input_error():
    with pytest.raises(MissingExtraError) as caught:
        with needs("watch", "`watch` needs watchfiles", ", or omit `watch`"):
            import no_such_package  # noqa: F401
    assert "[watch]" in str(caught.value)
    assert isinstance(caught.value, InputError | ImportError)
    # Worker processes send their errors with pickle.
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value) and copy.extra == "watch"


def test_a_missing_tensorflow_is_reported_for_the_outer_block(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError) as caught:
        with needs_tensorflow("`evaluate`"), needs_tensorflow("`ALIGN`"):
            import tensorflow  # noqa: F401
    assert "`evaluate`" in str(caught.value) and "[tensorflow]" in str(caught.value)
    with pytest.raises(MissingExtraError, match="An experiment"):
        check_tensorflow("An experiment")


def test_another_missing_package_of_training_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    check_tensorflow("An experiment")
    with pytest.raises(MissingExtraError, match="keras_hub"):
        with needs_tensorflow("ALIGN"):
            import keras_hub  # noqa: F401


def test_errors_of_other_packages_are_not_changed():
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        with needs_tensorflow("ALIGN"):
            import no_such_package  # noqa: F401
    with pytest.raises(MissingExtraError, match=r"\[watch\]"):
        with needs_tensorflow("ALIGN"), needs("watch", "`watch` needs watchfiles"):
            import no_such_package  # noqa: F401
