"""Changed files select their tests."""

import pathlib

import pytest

# pytest would collect a function with the name `tests_of` as a test.
from tools import tests_of as selection

TABLE = selection.TABLE
ROOT = pathlib.Path(__file__).parents[2]


def test_the_table_has_all_packages_and_existing_tests():
    packages = {
        str(path.parent.relative_to(ROOT))
        for path in (ROOT / "align_keras").glob("*/__init__.py")
    }
    assert packages
    assert packages <= set(TABLE)
    paths = {
        *TABLE,
        *(test for tests in TABLE.values() for test in tests.split()),
    }
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


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
def test_changed_paths_select_tests(paths, expected):
    assert selection.tests_of(paths) == sorted(expected.split())
