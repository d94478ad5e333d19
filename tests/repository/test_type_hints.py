"""Public functions have complete type hints, which mypy checks in `.ci/run`."""

import ast
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Packages and files that mypy checks. Their public functions all have hints.
CHECKED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
# Programs that are copied into exports.
EXAMPLES = ("litert_examples", "serving")
MODULES = sorted(
    path
    for folder in CHECKED
    for path in (ROOT / folder, *(ROOT / folder).rglob("*.py"))
    if path.is_file() and path.parent.name not in EXAMPLES
)


def find_incomplete_hints(tree):
    """Yields the public functions and methods of a module that lack type hints."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (f"{node.name}.{name}" for name in find_incomplete_hints(node))
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        arguments = node.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        parameters += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
        if isinstance(tree, ast.ClassDef) and not is_static(node):
            parameters = parameters[1:]
        lacks_hint = any(parameter.annotation is None for parameter in parameters)
        if node.returns is None or lacks_hint:
            yield node.name


def is_static(function):
    names = (getattr(item, "id", None) for item in function.decorator_list)
    return "staticmethod" in names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_have_hints(path):
    assert not list(find_incomplete_hints(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "code, expected",
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
def test_incomplete_hints_are_detected(code, expected):
    assert list(find_incomplete_hints(ast.parse(code))) == expected
