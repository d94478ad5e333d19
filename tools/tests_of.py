"""Prints the tests of the files that changed since a revision.

usage: python tools/tests_of.py REV
"""

import pathlib
import subprocess
import sys
from collections.abc import Iterable

ROOT = pathlib.Path(__file__).parents[1]
# Path prefix → tests. A changed file gets the tests of its longest prefix. The tests of
# a package include ci and release tests of the packages that use it.
TABLE = {
    "align_keras/__init__.py": "tests/cli",
    "align_keras/cli": "tests/cli",
    "align_keras/config": "tests/config tests/runs tests/cli",
    "align_keras/corpus": "tests/corpus tests/cli tests/tools",
    "align_keras/data": "tests/data tests/training tests/cli",
    "align_keras/datasets": "tests/datasets tests/data tests/cli",
    "align_keras/embedders": "tests/embedders tests/search tests/protocols tests/cli",
    "align_keras/evaluation": "tests/evaluation tests/protocols tests/cli",
    "align_keras/export": "tests/export tests/runs tests/cli",
    "align_keras/images": "tests/images tests/data tests/export",
    "align_keras/layers": "tests/layers tests/models tests/training",
    "align_keras/losses": "tests/losses tests/models tests/training",
    "align_keras/models": "tests/models tests/training tests/export tests/planning",
    "align_keras/models/conversion": "tests/models tests/cli/test_convert.py",
    "align_keras/optimizers": "tests/optimizers tests/training",
    "align_keras/planning": "tests/planning",
    "align_keras/preprocessing": "tests/preprocessing tests/models tests/data",
    "align_keras/presets": "tests/presets tests/models tests/cli",
    "align_keras/protocols": "tests/protocols tests/cli",
    "align_keras/reports": "tests/reports tests/cli",
    "align_keras/runs": "tests/runs tests/cli",
    "align_keras/search": "tests/search tests/export tests/cli",
    "align_keras/text": "tests/text tests/corpus tests/export",
    "align_keras/training": "tests/training tests/models tests/runs tests/cli",
    "align_keras/utils": "tests/utils tests/training tests/cli tests/corpus",
    "experiments": "tests/experiments tests/cli",
    "saved_models": "tests/release tests/models",
    "setup.cfg": "tests/release tests/repository",
    "pyproject.toml": "tests/release tests/repository",
    "tools": "tests/tools",
}


def tests_of(paths: Iterable[str]) -> list[str]:
    """Returns the tests of changed paths, sorted.

    A changed test file is its own test. A changed helper selects the tests of its
    folder. The result omits tests in a folder that it also contains.
    """
    tests: set[str] = set()
    for path in map(pathlib.PurePosixPath, paths):
        if path.parts[0] == "tests":
            is_test = path.name.startswith("test_")
            tests.add(str(path) if is_test else _nearest_tests(path))
            continue
        prefixes = [str(prefix) for prefix in (path, *path.parents)]
        longest_prefix = next((name for name in prefixes if name in TABLE), None)
        if longest_prefix is not None:
            tests.update(TABLE[longest_prefix].split())
    return sorted(test for test in tests if not _is_below(test, tests))


def _nearest_tests(helper: pathlib.PurePosixPath) -> str:
    """Returns the nearest parent folder of a helper that contains tests."""
    for folder in helper.parents:
        if any((ROOT / folder).glob("test_*.py")):
            return str(folder)
    return "tests"


def _is_below(path: str, folders: set[str]) -> bool:
    return any(str(parent) in folders for parent in pathlib.PurePosixPath(path).parents)


def changed_paths(revision: str) -> list[str]:
    """Returns the paths that differ from a revision, with uncommitted changes."""
    commands = [
        ["git", "diff", "--name-only", revision],
        ["git", "ls-files", "--others", "--exclude-standard"],
    ]
    paths = []
    for command in commands:
        process = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        )
        paths += process.stdout.splitlines()
    return paths


def main() -> None:
    """Prints the tests of the changes since the revision on the command line."""
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip().splitlines()[-1])
    revision = sys.argv[1]
    try:
        paths = changed_paths(revision)
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()[0]
        sys.exit(
            f"REV must be a revision of this repository. Received: {revision!r} "
            f"({reason}). `git log` lists the revisions."
        )
    print("\n".join(test for test in tests_of(paths) if (ROOT / test).exists()))


if __name__ == "__main__":
    main()
