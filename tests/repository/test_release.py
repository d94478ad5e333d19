"""Version numbers, and the paths of tests that release checks name."""

import pathlib
import re

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


def test_the_named_tests_exist():
    for path in RELEASE_CHECKS:
        text = path.read_text(encoding="utf-8")
        for test in re.findall(r"\btests/[\w/]+\.py\b", text):
            assert (ROOT / test).is_file(), f"{path}: {test}"
