"""Public names of the package, their pages, definitions and examples.

The names are read from the sources, because importing all packages takes seconds.
"""

import ast
import functools
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
_PAGES = ROOT / "docs" / "pages" / "reference" / "api"
# Code that imports the public names of a task, on the pages of the API reference.
IMPORTS = re.compile(
    r"^```python\n(from align_keras.*?)^```$", re.DOTALL | re.MULTILINE
)
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef)
# Code between fences in a docstring.
_DOCTEST_LINE = re.compile(r"^(?:>>>|\.\.\.) (.*)$", re.MULTILINE)
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def imported_names(page):
    """Returns the package or module and the name of each import on a page, in order."""
    return [
        (node.module.removeprefix("align_keras").lstrip("."), alias.name)
        for code in IMPORTS.findall(page)
        for node in ast.parse(code).body
        for alias in node.names
    ]


def listed_names():
    """Returns the package or module and the name of each entry of the reference."""
    return [
        entry
        for path in sorted(_PAGES.glob("*.md"))
        for entry in imported_names(path.read_text("utf-8"))
    ]


def wrong_names():
    """Compares the entries with `__all__` of all packages.

    A name of align_keras has one entry, although its package has the name too.

    Returns:
        tuple of two sorted lists: public names without an entry, and names with several
        entries.
    """
    entries = [name for _, name in listed_names()]
    packages = ["", *public_packages()]
    public = {name for package in packages for name in public_names(package)}
    repeated = {name for name in entries if entries.count(name) > 1}
    return sorted(public.difference(entries)), sorted(repeated)


def public_packages():
    """Returns the packages that define `__all__`, such as "layers"."""
    return [
        path.parent.name
        for path in sorted((ROOT / "align_keras").glob("*/__init__.py"))
        if _value_of("__all__", _tree(path)) is not None
    ]


def public_names(package):
    """Returns the names in `__all__` of a package, or of align_keras for ""."""
    tree = _tree(_path(module_of(package)))
    value = _value_of("__all__", tree)
    if isinstance(value, ast.Call):
        # `__all__` has the keys of `_PUBLIC`, which are imported on first use.
        return sorted(ast.literal_eval(_value_of("_PUBLIC", tree)))
    return ast.literal_eval(value)


def home_of(package, name):
    """Returns the full name of the definition of a name.

    Args:
        package: str, package or module that has the name, such as "layers", or "" for
            align_keras.
        name: str, class, function or constant.

    Raises:
        LookupError: if there is no definition.
    """
    module, _ = _find(module_of(package), name)
    return f"{module}.{name}"


def summary_of(package, name):
    """Returns the first line of the docstring of a class or a function."""
    return ast.get_docstring(_definition(package, name)).partition("\n")[0]


def code_blocks(package, name):
    """Returns the code blocks in the docstrings of a definition and its methods."""
    return [
        block
        for docstring in _docstrings(_definition(package, name))
        for block in _FENCE.findall(docstring)
    ]


def has_example(package, name):
    """Returns True if an example of a definition calls it or uses one of its members.

    An example is a doctest or a code block. pytest runs the doctests, and
    tests/repository/test_api_reference.py the blocks.
    """
    node = _definition(package, name)
    names = {name, *_members(node)}
    docstrings = _docstrings(node)
    codes = [line for text in docstrings for line in _DOCTEST_LINE.findall(text)]
    codes += [block for text in docstrings for block in _FENCE.findall(text)]
    return any(names.intersection(re.findall(r"\w+", code)) for code in codes)


def _definition(package, name):
    _, node = _find(module_of(package), name)
    return node


def _members(node):
    """Returns the public fields and methods of a class."""
    members = node.body if isinstance(node, ast.ClassDef) else []
    names = [
        member.target.id if isinstance(member, ast.AnnAssign) else member.name
        for member in members
        if isinstance(member, ast.AnnAssign | ast.FunctionDef)
    ]
    return [name for name in names if not name.startswith("_")]


def _docstrings(node):
    """Returns the docstrings of a function, or of a class and its public methods."""
    nodes = [node]
    if isinstance(node, ast.ClassDef):
        members = _members(node)
        nodes += [part for part in node.body if getattr(part, "name", "") in members]
    return [
        ast.get_docstring(part) or ""
        for part in nodes
        if isinstance(part, _DEFINITIONS)
    ]


def module_of(package):
    """Returns the full name of a package or module."""
    return f"align_keras.{package}" if package else "align_keras"


def _path(module):
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def _tree(path):
    return ast.parse(path.read_text("utf-8"))


def _value_of(name, tree):
    """Returns the value that a module assigns to a name, or None."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(getattr(target, "id", None) == name for target in targets):
            return node.value
    return None


def _find(module, name):
    """Returns the module and the node that define a name, and follows imports."""
    path = _path(module)
    tree = _tree(path)
    for node in tree.body:
        if isinstance(node, _DEFINITIONS) and node.name == name:
            return module, node
    if (value := _value_of(name, tree)) is not None:
        return module, value
    lazy_names = _value_of("_PUBLIC", tree)
    homes = ast.literal_eval(lazy_names) if lazy_names is not None else {}
    if name in homes:
        return _find(homes[name], name)
    # A package may import the name at the top or in `__getattr__`.
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and name in [n.name for n in node.names]:
            return _find(node.module, name)
    for file in sorted(path.parent.glob("*.py")):
        for node in _tree(file).body:
            if isinstance(node, _DEFINITIONS) and node.name == name:
                return f"{module}.{file.stem}", node
    raise LookupError(f"{module} does not define {name}")
