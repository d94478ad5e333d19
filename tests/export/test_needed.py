"""Where a missing program skips tests, and where it fails them."""

import pytest

from tests.export.needed import missing


@pytest.mark.parametrize(
    "value, outcome", [(None, pytest.skip.Exception), ("1", pytest.fail.Exception)]
)
def test_missing(monkeypatch, value, outcome):
    monkeypatch.delenv("ALIGN_KERAS_ALL_INSTALLED", raising=False)
    if value:
        monkeypatch.setenv("ALIGN_KERAS_ALL_INSTALLED", value)
    with pytest.raises(outcome, match="no C compiler"):
        missing("no C compiler")
