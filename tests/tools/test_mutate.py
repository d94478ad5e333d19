"""The table of bugs fits today's sources, and the script tells seen from unseen."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import mutate  # noqa: E402

CI, RELEASE = pytest.mark.ci, pytest.mark.release
MUTATIONS = mutate.read_mutations()


def test_each_edit_changes_one_place_and_names_tests_that_exist():
    assert len({own.name for own in MUTATIONS}) == len(MUTATIONS) >= 40
    for own in MUTATIONS:
        compile(mutate.mutated(own, ROOT), own.file, "exec")
        assert own.tests
        for test in own.tests:
            assert (ROOT / test.split("::")[0]).exists(), (own.name, test)


def test_an_edit_that_no_longer_fits_is_named():
    (first, *_) = MUTATIONS
    stale = mutate.Mutation("stale", first.file, "no such line", "x", first.tests)
    with pytest.raises(ValueError, match="stale: .* holds it 0 times"):
        mutate.mutated(stale, ROOT)


@pytest.fixture
def repository(tmp_path):
    """A function of one file, tested for positive numbers by default alone."""
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
def test_a_bug_is_seen_by_the_first_tier_that_fails(repository, new, tier, test):
    bug = mutate.Mutation("bug", "half.py", "n // 2", new, ("test_half.py",))
    outcome = mutate.judge(bug, repository, ["default", "ci"])
    assert (outcome.tier, outcome.test) == (tier, test)
    assert (repository / "half.py").read_text() == "def half(n):\n    return n // 2\n"
