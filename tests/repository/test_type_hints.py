"""Public functions say what they take and give; mypy checks it in `.ci/run`."""

import ast
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Packages and files that mypy checks. Their public functions all have hints.
CHECKED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
# Programs that an export carries.
EXAMPLES = ("litert_examples", "serving")
MODULES = sorted(
    path
    for place in CHECKED
    for path in (ROOT / place, *(ROOT / place).rglob("*.py"))
    if path.is_file() and path.parent.name not in EXAMPLES
)


def lacking(tree):
    """Yields the public functions and methods of a module without all hints."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (f"{node.name}.{name}" for name in lacking(node))
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        given = node.args
        taken = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        taken += [extra for extra in (given.vararg, given.kwarg) if extra]
        if isinstance(tree, ast.ClassDef) and not is_static(node):
            taken = taken[1:]
        if node.returns is None or any(one.annotation is None for one in taken):
            yield node.name


def is_static(function):
    names = (getattr(one, "id", None) for one in function.decorator_list)
    return "staticmethod" in names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_have_hints(path):
    assert not list(lacking(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "code, found",
    [
        ("def f(a: int, *b: int, c: str = '') -> None: ...", []),
        ("def f(a: int): ...", ["f"]),
        ("def f(a) -> int: ...", ["f"]),
        ("def f(**a) -> int: ...", ["f"]),
        ("def _f(a): ...", []),
        ("class A:\n    def f(self) -> None: ...", []),
        ("class A:\n    def f(self, a) -> None: ...", ["A.f"]),
        ("class A:\n    @staticmethod\n    def f(a) -> None: ...", ["A.f"]),
        ("class _A:\n    def f(self, a): ...", []),
    ],
)
def test_what_counts_as_hints(code, found):
    assert list(lacking(ast.parse(code))) == found
