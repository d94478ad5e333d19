"""Skips: allowed where packages may be missing, failures where all are installed."""

import types

import pytest

from tests.conftest import ALL_INSTALLED, refuse_silent_skip


@pytest.mark.parametrize(
    "value, reason, outcome",
    [
        (None, "Skipped: could not import 'torch'", "skipped"),
        ("1", "Skipped: could not import 'torch'", "failed"),
        ("1", "Skipped: may not mount a disk here", "skipped"),
    ],
)
def test_a_skip(monkeypatch, value, reason, outcome):
    monkeypatch.delenv(ALL_INSTALLED, raising=False)
    if value:
        monkeypatch.setenv(ALL_INSTALLED, value)
    report = types.SimpleNamespace(
        skipped=True, outcome="skipped", longrepr=("file.py", 1, reason)
    )
    assert refuse_silent_skip(report).outcome == outcome


def test_what_runs_is_left_alone(monkeypatch):
    monkeypatch.setenv(ALL_INSTALLED, "1")
    report = types.SimpleNamespace(skipped=False, outcome="passed", longrepr=None)
    assert refuse_silent_skip(report).outcome == "passed"
