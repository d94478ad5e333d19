"""Version numbers, and the paths of tests that release checks name."""

import pathlib
import re

import pytest

import align_keras

ROOT = pathlib.Path(__file__).parents[2]
RELEASE_CHECKS = [
    *sorted((ROOT / "tests/release").glob("*.py")),
    *sorted((ROOT / "tools").glob("*.*")),
    ROOT / ".github/CONTRIBUTING.md",
]


def test_the_citation_and_the_changelog_have_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall("^version: (.+)$", citation, re.MULTILINE) == [
        align_keras.__version__
    ]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d.*?)\]", changelog, re.MULTILINE)
    assert versions[0] == align_keras.__version__


@pytest.mark.parametrize("path", RELEASE_CHECKS, ids=lambda path: path.name)
def test_the_named_tests_exist(path):
    text = path.read_text(encoding="utf-8")
    tests = set(re.findall(r"\btests/[\w/]+\.py\b", text))
    assert sorted(test for test in tests if not (ROOT / test).is_file()) == []
