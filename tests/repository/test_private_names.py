"""Tests only use public names of the package."""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = "align_keras"
PRIVATE_NAME = re.compile(r"_(?!_)\w+")
PRIVATE_WORD = re.compile(r"(?<!\w)_(?!_)\w+")
ATTRIBUTE_IN_TEXT = re.compile(r"\.(_(?!_)\w+)")
# Functions with the name of an attribute as a string argument.
NAMING_FUNCTIONS = {"setattr", "getattr", "delattr", "hasattr", "setitem", "object"}
# Private names that exist both in the package and in another library. The values
# describe the name in the other library, which the tests use.
ALLOWED_NAMES = {
    "_replace": "public method of named tuples",
    "_fields": "public attribute of named tuples",
    "_split_generators": "method that builders of TFDS override, replaced by examples",
    "_generate_examples": "method that builders of TFDS override",
}
# File → private name → reason.
ALLOWED_USES = {
    "tests/oracles/efficientnet_lite.py": {"_blocks": "layers of another package"},
}


def private_names_of(source: str) -> set[str]:
    """Returns the private names that a module defines or assigns."""
    names = set()
    tree = ast.parse(source)
    scopes = [tree]
    scopes += [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for statement in (statement for scope in scopes for statement in scope.body):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(statement.name)
        else:
            names |= {
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
    names |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return {name for name in names if PRIVATE_NAME.fullmatch(name)}


def package_names() -> set[str]:
    """Returns the private names of the package."""
    names = set()
    for path in (ROOT / PACKAGE).rglob("*.py"):
        names |= private_names_of(path.read_text(encoding="utf-8"))
        if PRIVATE_NAME.fullmatch(path.stem):
            names.add(path.stem)
    return names


def names_in_text(text: str, names: set[str]) -> Iterator[str]:
    """Yields the private names in a string, such as the code of a script."""
    if PACKAGE in text and "\n" in text:
        try:
            yield from (name for _, name in private_accesses(text, names))
            return
        except SyntaxError:
            # The string is other text, or a template that is not valid Python code.
            pass
    yield from (name for name in ATTRIBUTE_IN_TEXT.findall(text) if name in names)


def private_accesses(source: str, names: set[str]) -> Iterator[tuple[int, str]]:
    """Yields (line, name) of each use of a private name in a module.

    Args:
        source: Code of the module.
        names: Set of private names of the package.
    """
    module_names = private_names_of(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            if node.module and node.module.partition(".")[0] == PACKAGE:
                parts = node.module.split(".") + [alias.name for alias in node.names]
                for name in filter(PRIVATE_NAME.fullmatch, parts):
                    yield node.lineno, name
        elif isinstance(node, ast.Attribute):
            is_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            if node.attr in names and not (is_self and node.attr in module_names):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for name in names_in_text(node.value, names):
                yield node.lineno, name
        else:
            for constant in attribute_strings(node):
                if constant.value in names:
                    yield constant.lineno, constant.value


def attribute_strings(node: ast.AST) -> Iterator[ast.Constant]:
    """Yields the string constants of a node that may be names of attributes."""
    if not isinstance(node, ast.Call | ast.Tuple | ast.List | ast.Set | ast.Subscript):
        return
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Call):
        function = getattr(node.func, "attr", getattr(node.func, "id", ""))
        children = node.args if function in NAMING_FUNCTIONS else []
    for child in children:
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child


@pytest.mark.ci
def test_tests_use_no_private_names_of_the_package() -> None:
    names = package_names() - set(ALLOWED_NAMES)
    accesses = set()
    allowed_uses = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        source = path.read_text(encoding="utf-8")
        if names.isdisjoint(PRIVATE_WORD.findall(source)):
            # Parsing is slow, and most files have none of the names.
            continue
        for line, name in private_accesses(source, names):
            if name in ALLOWED_USES.get(file, {}):
                allowed_uses.add((file, name))
            else:
                accesses.add(f"{file}:{line}: {name}")
    assert not accesses, "Test the public behavior, or make the name public."
    expected_uses = {
        (file, name) for file in ALLOWED_USES for name in ALLOWED_USES[file]
    }
    assert allowed_uses == expected_uses, "Remove unused entries of ALLOWED_USES."


@pytest.mark.parametrize(
    "source",
    [
        "from align_keras.text import _concealed",
        "from align_keras._concealed import name",
        "module._concealed = 1",
        "Index.open(folder).store._concealed()",
        "monkeypatch.setattr('align_keras.text.module._concealed', 1)",
        "monkeypatch.setattr(module, '_concealed', 1)",
        "for name in ('_concealed', 'public'): setattr(module, name, 1)",
        "vars(module)['_concealed']",
        "PROGRAM = 'import align_keras\\nfrom align_keras.text import _concealed\\n'",
        "class Sub(Base):\n    def method(self): return self._concealed",
    ],
)
def test_uses_of_private_names_are_detected(source: str) -> None:
    assert {name for _, name in private_accesses(source, {"_concealed"})} == {
        "_concealed"
    }


@pytest.mark.parametrize(
    "source",
    [
        "from tests.helpers.module import _concealed",
        "module._other = 1",
        "f'{name}_concealed'",
        "name.endswith('_concealed')",
        "class Own:\n    def _concealed(self): return self._concealed()",
    ],
)
def test_private_names_of_other_code_are_allowed(source: str) -> None:
    assert not list(private_accesses(source, {"_concealed"}))
