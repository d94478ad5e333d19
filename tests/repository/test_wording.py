"""The wording of the repository stays within the limits of tools/check_wording.py."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import check_wording  # noqa: E402

KINDS = sorted(check_wording.COUNTERS)
RULES = {rule.name: rule for rule in check_wording.RULES}
# Number of occurrences in the message of a failing test.
MAX_OCCURRENCES = 20


@pytest.fixture(scope="module")
def counts_by_kind():
    return {kind: count(ROOT) for kind, count in check_wording.COUNTERS.items()}


@pytest.mark.parametrize("rule", check_wording.RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("kind", KINDS)
def test_the_wording_stays_within_its_limits(counts_by_kind, kind, rule):
    counts = counts_by_kind[kind]
    occurrences = counts.occurrences[rule.name][:MAX_OCCURRENCES]
    message = "\n".join(str(occurrence) for occurrence in occurrences)
    assert counts.value(rule) <= rule.limit, f"{rule.description}\n{message}"


@pytest.mark.parametrize(
    "rule, path, text",
    [
        ("semicolons", "align_keras/a.py", "# One; two."),
        ("semicolons", "align_keras/a.js", "// One; two."),
        ("semicolons", "align_keras/a.html", "<!-- One; two. -->"),
        ("semicolons", "align_keras/a.css", "/* One; two. */"),
        ("semicolons", "experiments/a.yaml", "# One; two."),
        ("semicolons", ".github/SECURITY.md", "One; two."),
        ("what", "tests/a.py", 'def f():\n    """Returns what it reads."""'),
        ("dialect", "tools/a.py", "x = 1  # The file that the error tells of."),
        ("comment-openers", "align_keras/a.py", "# Of all files."),
        ("comment-openers", "align_keras/a.js", "/**\n * Of all files.\n */"),
        ("comment-openers", "experiments/a.yaml", "# Of all files."),
        ("docstring-openers", "tests/a.py", '"""Where files are."""'),
        ("vague-names", "tests/a.py", "def f(found): pass"),
        ("vague-names", "align_keras/a.js", "const found = 1;"),
        ("dialect-names", "tests/a.py", "own_files = 1"),
        ("dialect-names", "align_keras/a.js", "readPicture(file);"),
        ("dialect-names", "align_keras/a.html", '<p class="picture">'),
        ("dialect-names", "align_keras/a.css", ".picture { }"),
        ("dialect-names", "experiments/a.yaml", "pictures: 1"),
        ("tuple-splats", "tests/a.py", "[*(1, 2)]"),
        ("locals", "tests/a.py", "locals()"),
        ("messages", "align_keras/a.py", "x = 'one two three; four five'"),
        ("messages", "align_keras/a.js", "say(`one two three; four five`);"),
        ("messages", "align_keras/a.html.j2", "<p>one two three; four five</p>"),
    ],
)
def test_every_rule_counts_its_occurrences(tmp_path, rule, path, text):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text + "\n", encoding="utf-8")
    counts = [count(tmp_path) for count in check_wording.COUNTERS.values()]
    [occurrence] = [
        occurrence for count in counts for occurrence in count.occurrences[rule]
    ]
    assert str(occurrence.path) == path
    assert max(count.value(RULES[rule]) for count in counts) > RULES[rule].limit


@pytest.mark.parametrize(
    "text",
    [
        "# Reads the sizes of all files. They are in bytes.",
        'def f(paths):\n    """Returns all sizes.\n\n    >>> f([]); 1\n    """',
        "def save_own_variables(store): pass",
        "x = 'a; b'",
        "sizes = [*paths]",
    ],
)
def test_plain_wording_counts_nowhere(tmp_path, text):
    (tmp_path / "align_keras").mkdir()
    (tmp_path / "align_keras/a.py").write_text(text + "\n", encoding="utf-8")
    counts = check_wording.count_python(tmp_path)
    assert not any(counts.occurrences.values())
