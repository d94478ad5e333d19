import ast
import pathlib

import pytest

from align_keras import search

FOLDER = pathlib.Path(search.__file__).parent
# A part imports only the parts before it.
PARTS = (
    "readers",
    "index",
    "update",
    "query",
    "image_index",
    "bulk_embeddings",
    "tags",
    "serve",
)


def imported_parts(path):
    """Returns the parts of `search` that a module imports, lazily or not."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = node.module.split(".")
            if names[:2] == ["align_keras", "search"] and len(names) > 2:
                parts.add(names[2])
    return parts


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_the_parts_before_it(part):
    paths = (FOLDER / part).glob("*.py")
    if (FOLDER / f"{part}.py").exists():
        paths = [FOLDER / f"{part}.py"]
    allowed = set(PARTS[: PARTS.index(part) + 1])
    if part == "query":
        allowed.remove("update")
    for path in paths:
        assert imported_parts(path) <= allowed, path.name
