#!/usr/bin/env python3
"""Counts words and sentence forms that make text of this repository hard to read.

`python tools/check_wording.py` prints one line per rule and kind of file. `--list RULE`
prints the occurrences that count towards a rule. The limits are close to the counts of
KerasHub, sentence-transformers and llm. A text that passes may still be unclear.
"""

import argparse
import ast
import collections
import dataclasses
import io
import pathlib
import re
import sys
import tokenize
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTHON_FOLDERS = ("align_keras", "tests", "tools")
WORD = re.compile(r"[A-Za-z']+")

# Comments and docstrings start with the subject or with a verb.
FRONTED_OPENER = re.compile(
    r"(Of|By|What|Whatever|Not|Where|Whose|Which|That|As|From|Whom|Neither|Nor|How"
    r"|Whether)\b"
)
SEMICOLON = re.compile(";")
READER = re.compile(r"\byour?\b", re.IGNORECASE)
QUESTION_WORD = re.compile(r"\bwhat\b", re.IGNORECASE)
# Verbs for people that are misleading for programs, and words that are rare elsewhere.
DIALECT = re.compile(
    r"\b(tells?|told|says|said|judged?|asked for|asks for|stands?|lies|besides?|behind"
    r"|anew|likewise|whatever|thereby|reckon\w*|mend\w*|of no account|so many"
    r"|in the occurrence of|foretell\w*)\b",
    re.IGNORECASE,
)
# A value's name is a noun that describes the value.
VAGUE_NAMES = frozenset(
    (
        "found",
        "given",
        "told",
        "asked",
        "about",
        "left",
        "kept",
        "shown",
        "others",
        "these",
        "rest",
        "way",
        "place",
        "places",
        "own",
        "said",
        "known",
        "here",
        "there",
        "what",
        "of",
        "it",
        "made",
        "more",
    )
)
DIALECT_NAME = re.compile(r"(^|_|-)(own|pictures?)(_|-|$)")
# Methods that Keras calls by these names.
KERAS_HOOKS = frozenset({"save_own_variables", "load_own_variables"})

MARKUP_COMMENT = re.compile(r"<!--(.*?)-->|\{#(.*?)#\}", re.DOTALL)
MARKUP_CODE = re.compile(r"<(script|style)\b.*?</\1>|\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)
MARKUP_TAG = re.compile(r"<[^>]*>")
MARKUP_ENTITY = re.compile(r"&#?\w+;")
MARKUP_NAME = re.compile(r"""\b(?:class|id|name|for)=["']([^"'{}]+)["']""")
STYLE_NAME = re.compile(r"[.#](-?[A-Za-z_][\w-]*)")
SCRIPT_TOKEN = re.compile(
    r"""
    (?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)
    |(?P<name>[A-Za-z_$][\w$]*)
    """,
    re.DOTALL | re.VERBOSE,
)
SCRIPT_BINDING = re.compile(r"\b(?:const|let|var|function|class)\s+([A-Za-z_$][\w$]*)")
CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One count and its limit.

    Attributes:
        name: str, name on the command line.
        limit: float, largest allowed value, or the smallest one if `is_minimum`.
        total: str, key of the total that the count is divided by, or "" for none.
        scale: float, factor of the quotient.
        description: str, unit and meaning.
        is_minimum: bool, True if larger values are better.
    """

    name: str
    limit: float
    total: str
    scale: float
    description: str
    is_minimum: bool = False

    def allows(self, value: float) -> bool:
        """Returns True if a value is within the limit."""
        return value >= self.limit if self.is_minimum else value <= self.limit


CODE_RULES = (
    Rule("semicolons", 25, "words", 1e4, "per 10,000 words of comments, docstrings"),
    Rule("what", 20, "words", 1e4, "per 10,000 words of comments, docstrings"),
    Rule("dialect", 6, "words", 1e4, "tells, says, …: per 10,000 words of comments"),
    Rule("comment-openers", 2, "comments", 100, "% of comments: Of, By, What, …"),
    Rule("docstring-openers", 0.5, "docstrings", 100, "% of docstrings"),
    Rule("vague-names", 3, "bindings", 1e3, "found, given, …: per 1,000 bindings"),
    Rule("dialect-names", 0, "", 1, "identifiers with the words own or picture"),
    Rule("tuple-splats", 0, "", 1, "literal tuples that are splatted, *(…)"),
    Rule("locals", 0, "", 1, "calls of locals()"),
    Rule("messages", 30, "message words", 1e4, "per 10,000 words of messages"),
)
DOCS_RULES = (
    Rule("docs-semicolons", 20, "docs words", 1e4, "per 10,000 words of docs"),
    Rule("docs-what", 10, "docs words", 1e4, "per 10,000 words of docs"),
    Rule("docs-dialect", 6, "docs words", 1e4, "tells, says, …: per 10,000 words"),
    Rule("docs-openers", 2, "sentences", 100, "% of sentences: Of, By, What, …"),
    Rule("docs-reader", 60, "docs words", 1e4, "you, your: per 10,000 words", True),
)
RULES = CODE_RULES + DOCS_RULES


@dataclasses.dataclass(frozen=True)
class Occurrence:
    """Text that counts towards a rule."""

    path: pathlib.Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


class WordingCounts:
    """Occurrences of each rule, and the totals that the counts are divided by."""

    def __init__(self) -> None:
        self.occurrences: dict[str, list[Occurrence]] = {
            rule.name: [] for rule in RULES
        }
        self.totals: collections.Counter[str] = collections.Counter()

    def value(self, rule: Rule) -> float:
        """Returns the count of a rule in its unit."""
        total = max(self.totals[rule.total], 1) if rule.total else 1
        return rule.scale * len(self.occurrences[rule.name]) / total

    def add_prose(self, path: pathlib.Path, line: int, text: str) -> None:
        """Adds the words of a comment or docstring, without code, to the counts."""
        plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        plain = re.sub(r"`+[^`]*`+", "X", plain)
        plain = "\n".join(
            row
            for row in plain.splitlines()
            if not row.lstrip().startswith((">>>", "..."))
        )
        self.totals["words"] += len(WORD.findall(plain))
        for name, pattern in (
            ("semicolons", SEMICOLON),
            ("what", QUESTION_WORD),
            ("dialect", DIALECT),
        ):
            self._add_matches(name, pattern, path, line, plain)

    def add_page(self, path: pathlib.Path, text: str) -> None:
        """Adds the words of a Markdown page, without code, links and tables."""
        plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        plain = re.sub(
            r"<!--.*?-->", "", re.sub(r"`[^`]*`", "X", plain), flags=re.DOTALL
        )
        plain = re.sub(r"&#?\w+;", " ", _without_links(plain))
        rows = []
        for row in plain.splitlines():
            is_heading = row.startswith("#")
            is_rule = re.fullmatch(r"[|\s:-]+", row) is not None
            if not is_heading and not is_rule:
                # Each item of a list and each row of a table is a paragraph.
                rows.append(re.sub(r"^\s*([-*>|]|\d+\.)\s+", "\n\n", row))
        plain = "\n".join(rows)
        self.totals["docs words"] += len(WORD.findall(plain))
        for sentence in re.split(r"(?<=[.!?])\s+|\n\n", plain):
            sentence = sentence.strip()
            if len(WORD.findall(sentence)) > 3:
                self.totals["sentences"] += 1
                if FRONTED_OPENER.match(sentence):
                    occurrence = Occurrence(path, 0, sentence[:90].replace("\n", " "))
                    self.occurrences["docs-openers"].append(occurrence)
        for name, pattern in (
            ("docs-semicolons", SEMICOLON),
            ("docs-what", QUESTION_WORD),
            ("docs-dialect", DIALECT),
            ("docs-reader", READER),
        ):
            self._add_matches(name, pattern, path, 0, plain)

    def add_comment(self, path: pathlib.Path, line: int, text: str) -> None:
        """Adds a comment block to the counts, and checks its first word."""
        self.totals["comments"] += 1
        if FRONTED_OPENER.match(text):
            self.occurrences["comment-openers"].append(
                Occurrence(path, line, text[:90])
            )
        self.add_prose(path, line, text)

    def add_docstring(self, path: pathlib.Path, line: int, text: str) -> None:
        """Adds a docstring to the counts, and checks its first word."""
        self.totals["docstrings"] += 1
        if FRONTED_OPENER.match(text):
            first_line = text.splitlines()[0]
            self.occurrences["docstring-openers"].append(
                Occurrence(path, line, first_line)
            )
        self.add_prose(path, line, text)

    def add_message(self, path: pathlib.Path, line: int, text: str) -> None:
        """Adds a string that users may read. Ignores strings of up to three words."""
        words = len(WORD.findall(text))
        if words <= 3:
            return
        self.totals["message words"] += words
        for pattern in (SEMICOLON, QUESTION_WORD, DIALECT):
            self._add_matches("messages", pattern, path, line, text)

    def add_binding(self, path: pathlib.Path, line: int, name: str) -> None:
        """Adds a name that is bound to a value, a function or a class."""
        self.totals["bindings"] += 1
        if name.strip("_$").lower() in VAGUE_NAMES:
            self.occurrences["vague-names"].append(Occurrence(path, line, name))

    def add_name(self, path: pathlib.Path, line: int, name: str) -> None:
        """Checks a name for words of `DIALECT_NAME` where it is bound or used."""
        if DIALECT_NAME.search(name) and name not in KERAS_HOOKS:
            self.occurrences["dialect-names"].append(Occurrence(path, line, name))

    def _add_matches(
        self,
        rule: str,
        pattern: re.Pattern[str],
        path: pathlib.Path,
        line: int,
        text: str,
    ) -> None:
        for match in pattern.finditer(text):
            context = text[max(0, match.start() - 45) : match.end() + 35]
            self.occurrences[rule].append(
                Occurrence(path, line, context.replace("\n", " "))
            )


def count_python(root: pathlib.Path) -> WordingCounts:
    """Counts the wording of the Python files of a repository."""
    counts = WordingCounts()
    for folder in PYTHON_FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            _count_python(counts, root, path, is_package=folder == "align_keras")
    return counts


def count_other_files(root: pathlib.Path) -> WordingCounts:
    """Counts the wording of scripts, pages, style sheets, YAML and security notes."""
    counts = WordingCounts()
    package = root / "align_keras"
    yaml_files = [
        path
        for folder in (package, root / "experiments", root / ".github")
        for pattern in ("*.yaml", "*.yml")
        for path in folder.rglob(pattern)
    ]
    files_by_counter = {
        _count_script: package.rglob("*.js"),
        _count_markup: [*package.rglob("*.html"), *package.rglob("*.html.j2")],
        _count_style: package.rglob("*.css"),
        _count_yaml: yaml_files,
        _count_text: [root / ".github/SECURITY.md", package / "export/web/README.txt"],
    }
    for count, files in files_by_counter.items():
        for path in sorted(files):
            if path.exists():
                text = path.read_text(encoding="utf-8")
                count(counts, path.relative_to(root), text)
    return counts


def _count_python(
    counts: WordingCounts, root: pathlib.Path, path: pathlib.Path, is_package: bool
) -> None:
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(root)
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            docstring = ast.get_docstring(node)
            if docstring:
                docstrings.add(id(node.body[0].value))  # type: ignore[attr-defined]
                counts.add_docstring(name, getattr(node, "lineno", 1), docstring)
    for node in ast.walk(tree):
        _count_names(counts, name, node)
        if isinstance(node, ast.Starred) and _is_literal(node.value):
            occurrence = Occurrence(name, node.lineno, ast.unparse(node)[:80])
            counts.occurrences["tuple-splats"].append(occurrence)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "locals":
            counts.occurrences["locals"].append(
                Occurrence(name, node.lineno, "locals()")
            )
        if is_package and isinstance(node, ast.Constant) and id(node) not in docstrings:
            if isinstance(node.value, str):
                counts.add_message(name, node.lineno, node.value)
    for line, comment in python_comments(text):
        counts.add_comment(name, line, comment)


def _count_names(counts: WordingCounts, path: pathlib.Path, node: ast.AST) -> None:
    bound = None
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        bound = node.id if isinstance(node, ast.Name) else node.attr
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        bound = node.name
    elif isinstance(node, ast.arg):
        bound = node.arg
    line = getattr(node, "lineno", 1)
    if bound is not None:
        counts.add_binding(path, line, bound)
        counts.add_name(path, line, bound)
    elif isinstance(node, ast.Attribute):
        counts.add_name(path, line, node.attr)
    elif isinstance(node, ast.keyword) and node.arg is not None:
        counts.add_name(path, line, node.arg)


def _is_literal(value: ast.expr) -> bool:
    """Returns True for a tuple, list or set in the code, or a split of a string."""
    if isinstance(value, ast.Tuple | ast.List | ast.Set):
        return True
    return (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and value.func.attr == "split"
        and isinstance(value.func.value, ast.Constant)
    )


def python_comments(text: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of each comment.

    Comments on consecutive lines that start in the same column are one comment.
    """
    line, column, rows = 0, 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        row = token.string.lstrip("#! ").strip()
        if rows and token.start == (line + len(rows), column):
            rows.append(row)
            continue
        if rows:
            yield line, " ".join(rows)
        line, column = token.start
        rows = [row]
    if rows:
        yield line, " ".join(rows)


def _count_script(counts: WordingCounts, path: pathlib.Path, text: str) -> None:
    for token in SCRIPT_TOKEN.finditer(text):
        line = _line_number(text, token)
        if token["comment"]:
            rows = [row.strip(" */") for row in token["comment"].splitlines()]
            counts.add_comment(path, line, " ".join(rows).strip())
        elif token["string"]:
            counts.add_message(path, line, token["string"][1:-1])
        else:
            counts.add_name(path, line, _snake_case(token["name"]))
    code = SCRIPT_TOKEN.sub(lambda token: token["name"] or _blank(token), text)
    for binding in SCRIPT_BINDING.finditer(code):
        counts.add_binding(path, _line_number(code, binding), binding[1])


def _count_markup(counts: WordingCounts, path: pathlib.Path, text: str) -> None:
    for comment in MARKUP_COMMENT.finditer(text):
        content = comment[1] or comment[2]
        counts.add_comment(path, _line_number(text, comment), content.strip())
    for attribute in MARKUP_NAME.finditer(text):
        for word in attribute[1].split():
            counts.add_name(path, _line_number(text, attribute), word)
    plain = MARKUP_CODE.sub(_blank, MARKUP_COMMENT.sub(_blank, text))
    plain = MARKUP_ENTITY.sub(" ", MARKUP_TAG.sub(_blank, plain))
    for number, row in enumerate(plain.splitlines(), start=1):
        counts.add_message(path, number, row)


def _line_number(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def _blank(match: re.Match[str]) -> str:
    """Returns the line breaks of a match, so that later line numbers stay right."""
    return "\n" * match[0].count("\n") or " "


def _count_style(counts: WordingCounts, path: pathlib.Path, text: str) -> None:
    for comment in re.finditer(r"/\*(.*?)\*/", text, re.DOTALL):
        content = " ".join(comment[1].split())
        counts.add_comment(path, _line_number(text, comment), content)
    for selector in STYLE_NAME.finditer(text):
        counts.add_name(path, _line_number(text, selector), selector[1])


def _count_yaml(counts: WordingCounts, path: pathlib.Path, text: str) -> None:
    first, rows = 0, list[str]()
    for number, row in enumerate(text.splitlines(), 1):
        comment = re.match(r"\s*#+ ?(.*)", row)
        if comment:
            first = first or number
            rows.append(comment[1].strip())
            continue
        key = re.match(r"[\s-]*([\w-]+):", row)
        if key:
            counts.add_name(path, number, key[1])
        if rows:
            counts.add_comment(path, first, " ".join(rows))
        first, rows = 0, []
    if rows:
        counts.add_comment(path, first, " ".join(rows))


def _count_text(counts: WordingCounts, path: pathlib.Path, text: str) -> None:
    counts.add_prose(path, 1, _without_links(text))


def _snake_case(name: str) -> str:
    return CAMEL_HUMP.sub("_", name).lower()


def _without_links(text: str) -> str:
    return re.sub(r"\]\([^)]*\)", "]", text)


def count_docs(root: pathlib.Path) -> WordingCounts:
    """Counts the wording of the README, the changelog and the pages of the docs."""
    counts = WordingCounts()
    pages = [
        root / "README.md",
        root / "CHANGELOG.md",
        root / ".github/CONTRIBUTING.md",
    ]
    for path in [*pages, *sorted((root / "docs").rglob("*.md"))]:
        if path.exists():
            counts.add_page(path.relative_to(root), path.read_text(encoding="utf-8"))
    return counts


@dataclasses.dataclass(frozen=True)
class FileKind:
    """Files that are counted together.

    Attributes:
        count: function from the root of a repository to its `WordingCounts`.
        rules: tuple of `Rule`, the rules of these files.
    """

    count: Callable[[pathlib.Path], WordingCounts]
    rules: tuple[Rule, ...]


FILE_KINDS = {
    "python": FileKind(count_python, CODE_RULES),
    "other files": FileKind(count_other_files, CODE_RULES),
    "docs": FileKind(count_docs, DOCS_RULES),
}


def main() -> int:
    """Prints the counts, and returns 1 if one is outside its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [rule.name for rule in RULES]
    parser.add_argument("--list", choices=names, metavar="RULE", dest="rule")
    arguments = parser.parse_args()
    exit_status = 0
    for name, kind in FILE_KINDS.items():
        counts = kind.count(ROOT)
        if arguments.rule:
            for occurrence in counts.occurrences[arguments.rule]:
                print(occurrence)
            continue
        for rule in kind.rules:
            value = counts.value(rule)
            verdict = "ok" if rule.allows(value) else "FAILS"
            if not rule.allows(value):
                exit_status = 1
            bound = "at least" if rule.is_minimum else "at most"
            print(
                f"{name:12} {rule.name:18} {value:7.1f} of {bound} {rule.limit:4} "
                f"{verdict:6} {rule.description}"
            )
    return exit_status


if __name__ == "__main__":
    sys.exit(main())
