"""Oracles run in a separate process without TensorFlow."""

import os

import pytest

from tests.helpers.oracle_process import OracleError, call_oracle, needs


def test_all_calls_run_in_the_same_separate_process():
    assert (
        os.getpid()
        != call_oracle("itself", "process")
        == call_oracle("itself", "process")
    )


@pytest.mark.parametrize("name", ["tensorflow", "keras", "align_keras"])
def test_the_process_cannot_import_tensorflow(name):
    with pytest.raises(OracleError, match=f"import of {name} halted"):
        call_oracle("itself", "imported", name)
    assert call_oracle("itself", "imported", "numpy") == "numpy"


def test_an_error_has_the_traceback_of_the_process():
    with pytest.raises(OracleError, match="ModuleNotFoundError.*'no_such_module'"):
        call_oracle("itself", "imported", "no_such_module")


def test_missing_packages_skip_the_test():
    mark = needs("numpy", "no_such_package", "no_other").mark
    assert mark.args == (True,)
    assert mark.kwargs["reason"] == "not installed: no_such_package, no_other"
    assert needs("numpy").mark.args == (False,)
