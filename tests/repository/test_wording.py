"""The wording of the repository stays within the limits of tools/check_wording.py."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import check_wording  # noqa: E402

FILE_KINDS = check_wording.FILE_KINDS
RULES = {rule.name: rule for rule in check_wording.RULES}
# Number of occurrences in the message of a failing test.
MAX_OCCURRENCES = 20


@pytest.fixture(scope="module")
def counts_by_kind():
    return {name: kind.count(ROOT) for name, kind in FILE_KINDS.items()}


@pytest.mark.ci
@pytest.mark.parametrize(
    "kind, rule_name",
    [(name, rule.name) for name, kind in FILE_KINDS.items() for rule in kind.rules],
)
def test_the_wording_stays_within_its_limits(counts_by_kind, kind, rule_name):
    rule = RULES[rule_name]
    counts = counts_by_kind[kind]
    occurrences = counts.occurrences[rule_name][:MAX_OCCURRENCES]
    message = "\n".join(str(occurrence) for occurrence in occurrences)
    assert rule.allows(counts.value(rule)), f"{rule.description}\n{message}"


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
        ("docs-semicolons", "README.md", "You see one; and two."),
        ("docs-what", "docs/pages/a.md", "You see what it does."),
        ("docs-dialect", "CHANGELOG.md", "Your error tells the reason."),
        ("docs-openers", "docs/pages/a.md", "Of all your files one stays."),
    ],
)
def test_every_rule_counts_its_occurrences(tmp_path, rule, path, text):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")
    counts = [kind.count(tmp_path) for kind in FILE_KINDS.values()]
    [occurrence] = [
        occurrence for count in counts for occurrence in count.occurrences[rule]
    ]
    assert str(occurrence.path) == path
    assert not all(RULES[rule].allows(count.value(RULES[rule])) for count in counts)


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


def test_pages_must_address_the_reader(tmp_path):
    rule = RULES["docs-reader"]
    (tmp_path / "README.md").write_text("The command searches images.\n")
    assert not rule.allows(check_wording.count_docs(tmp_path).value(rule))
    (tmp_path / "README.md").write_text("You search your images.\n")
    assert rule.allows(check_wording.count_docs(tmp_path).value(rule))
