"""The table from what has changed to its tests."""

import pathlib

import pytest

from tools import tests_of as changes

TABLE = changes.TABLE
ROOT = pathlib.Path(__file__).parents[2]


def test_every_package_and_every_named_test_exists():
    packages = {
        str(own.parent.relative_to(ROOT))
        for own in (ROOT / "align_keras").glob("*/__init__.py")
    }
    assert packages
    assert packages <= set(TABLE)
    named = {
        *TABLE,
        *(own for tests in TABLE.values() for own in tests.split()),
    }
    assert [own for own in sorted(named) if not (ROOT / own).exists()] == []


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (
            ["align_keras/losses/contrastive_loss.py"],
            TABLE["align_keras/losses"],
        ),
        (
            ["align_keras/models/conversion/links.py"],
            TABLE["align_keras/models/conversion"],
        ),
        (["tests/text/test_coverage.py", "README.md"], "tests/text/test_coverage.py"),
        (
            ["tests/search/postgres_server.py", "tests/search/test_index.py"],
            "tests/search",
        ),
        (["tests/helpers/small_run.py", "tests/cli/test_main.py"], "tests"),
        (["tests/datasets/benchmarks/cxc_excerpt/a.gz"], "tests/datasets/benchmarks"),
        ([], ""),
    ],
)
def test_changed_paths(paths, expected):
    assert changes.tests_of(paths) == sorted(expected.split())
