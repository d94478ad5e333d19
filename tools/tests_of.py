"""Prints the tests that touch what has changed since a revision.

usage: python tools/tests_of.py REV
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# A path's beginning → its tests; the longest one that fits counts. A room's tests are
# those that use it too, where the ci or the release tier has some.
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
    "align_keras/protocols": "tests/protocols tests/cli",
    "align_keras/reports": "tests/reports tests/cli",
    "align_keras/runs": "tests/runs tests/cli",
    "align_keras/search": "tests/search tests/export tests/cli",
    "align_keras/text": "tests/text tests/corpus tests/export",
    "align_keras/training": "tests/training tests/models tests/runs tests/cli",
    "align_keras/utils": "tests/utils tests/training tests/cli tests/corpus",
    "experiments": "tests/experiments tests/cli",
    "setup.cfg": "tests/release",
    "pyproject.toml": "tests/release tests/repository",
    "tools": "tests/tools",
}


def tests_of(paths):
    """Returns the tests of changed paths, sorted, without those below another one.

    A changed test stands for itself, a changed helper of tests for its folder.
    """
    found = set()
    for path in map(pathlib.PurePosixPath, paths):
        if path.parts[0] == "tests":
            is_test = path.name.startswith("test_")
            found.add(str(path) if is_test else _nearest_tests(path))
            continue
        beginnings = [str(own) for own in (path, *path.parents)]
        nearest = next((own for own in beginnings if own in TABLE), None)
        found.update(TABLE[nearest].split() if nearest else ())
    return sorted(own for own in found if not _is_below(own, found))


def _nearest_tests(helper):
    """The innermost folder around a helper that holds tests, as str."""
    holding = (own for own in helper.parents if any((ROOT / own).glob("test_*.py")))
    return str(next(holding, "tests"))


def _is_below(path, others):
    return any(str(own) in others for own in pathlib.PurePosixPath(path).parents)


def changed(revision):
    """Returns the paths that differ from a revision, committed or not."""
    commands = [
        ["git", "diff", "--name-only", revision],
        ["git", "ls-files", "--others", "--exclude-standard"],
    ]
    lines = [
        subprocess.run(own, cwd=ROOT, capture_output=True, text=True, check=True)
        for own in commands
    ]
    return [path for own in lines for path in own.stdout.splitlines()]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip().splitlines()[-1])
    try:
        paths = changed(sys.argv[1])
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()[0]
        sys.exit(
            f"REV must be a revision of this repository, received {sys.argv[1]!r} "
            f"({reason}); git log lists them."
        )
    print("\n".join(own for own in tests_of(paths) if (ROOT / own).exists()))
