"""A skipped test fails if all packages are installed, except for allowed reasons."""

import pathlib
import types

import pytest

from tests.conftest import ALL_INSTALLED, ALLOWED_SKIPS, refuse_silent_skip

TESTS = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    "value, reason, outcome",
    [
        (None, "Skipped: could not import 'torch'", "skipped"),
        ("1", "Skipped: could not import 'torch'", "failed"),
        ("1", "Skipped: may not mount a disk here", "skipped"),
    ],
)
def test_skips_fail_only_if_all_packages_are_installed(
    monkeypatch, value, reason, outcome
):
    monkeypatch.delenv(ALL_INSTALLED, raising=False)
    if value:
        monkeypatch.setenv(ALL_INSTALLED, value)
    report = types.SimpleNamespace(
        skipped=True, outcome="skipped", longrepr=("file.py", 1, reason)
    )
    assert refuse_silent_skip(report).outcome == outcome


@pytest.mark.parametrize("reason", ALLOWED_SKIPS)
def test_each_allowed_reason_is_used_by_a_test(reason):
    other_files = {TESTS / "conftest.py", pathlib.Path(__file__)}
    files = set(TESTS.rglob("*.py")) - other_files
    assert any(reason in path.read_text(encoding="utf-8") for path in files)
