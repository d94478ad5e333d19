"""The listed bugs match the current code, and the script reports undetected bugs."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import mutate  # noqa: E402

CI, RELEASE = pytest.mark.ci, pytest.mark.release
MUTATIONS = mutate.read_mutations()


def read_function_names(path):
    """Returns the names of all functions and methods of a Python file, a set."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_edits_match_the_code_and_their_tests_exist():
    names = {mutation.name for mutation in MUTATIONS}
    assert len(names) == len(MUTATIONS) >= 40
    for mutation in MUTATIONS:
        compile(mutate.insert_bug(mutation, ROOT), mutation.file, "exec")
        assert mutation.tests
        for test in mutation.tests:
            path, _, function = test.partition("::")
            assert (ROOT / path).exists(), (mutation.name, test)
            if function:
                names = read_function_names(ROOT / path)
                assert function.split("[")[0] in names, (mutation.name, test)


def test_an_outdated_edit_raises_an_error_with_its_name():
    (first, *_) = MUTATIONS
    stale = mutate.Mutation("stale", first.file, "no such line", "x", first.tests)
    with pytest.raises(ValueError, match="stale: .* 0 occurrences"):
        mutate.insert_bug(stale, ROOT)


@pytest.fixture
def repository(tmp_path):
    """A repository whose default tests only test positive numbers."""
    (tmp_path / "half.py").write_text("def half(n):\n    return n // 2\n")
    (tmp_path / "test_half.py").write_text(
        "import pytest\nfrom half import half\n"
        "def test_four():\n    assert half(4) == 2\n"
        "@pytest.mark.ci\ndef test_minus_one():\n    assert half(-1) == -1\n"
    )
    (tmp_path / "setup.cfg").write_text(
        "[tool:pytest]\nmarkers =\n    ci:\n    release:\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("new", "tier", "test"),
    [
        pytest.param("n // 3", "default", "test_half.py::test_four", marks=RELEASE),
        pytest.param("int(n / 2)", "ci", "test_half.py::test_minus_one", marks=CI),
        pytest.param("n >> 1", "none", "", marks=RELEASE),
    ],
)
def test_the_first_failing_tier_is_reported(repository, new, tier, test):
    bug = mutate.Mutation("bug", "half.py", "n // 2", new, ("test_half.py",))
    outcome = mutate.check_mutation(bug, repository, ["default", "ci"])
    assert (outcome.tier, outcome.test) == (tier, test)
    assert (repository / "half.py").read_text() == "def half(n):\n    return n // 2\n"


@CI
def test_an_interrupted_run_continues(repository, monkeypatch, capsys):
    bug = mutate.Mutation("bug", "half.py", "n // 2", "n", ("test_half.py",))
    monkeypatch.setattr(mutate, "read_mutations", lambda: [bug])
    monkeypatch.setattr(mutate, "copy_repository", lambda _: repository)
    arguments = ["--tier", "default", "--results", str(repository / "results.jsonl")]
    assert mutate.main(arguments) == 0
    first = capsys.readouterr().out
    assert "| bug | default | test_half.py::test_four |" in first
    # The tests can no longer run, so the second outcome comes from the file.
    (repository / "half.py").unlink()
    assert mutate.main(arguments) == 0
    assert capsys.readouterr().out == first
