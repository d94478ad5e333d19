"""Names of the package in the documentation exist, and called names are callable."""

import ast
import importlib
import re
import types

import pytest

import align_keras
from tests.helpers.docs_text import PAGES, code_blocks, inline_codes, prose, read_page

# Dotted names, and "(" if the name is called.
DOTTED = re.compile(r"\balign_keras(?P<path>(?:\.[A-Za-z_]\w*)+)(?P<call>\()?")
# Pages write the members of these classes as `ALIGN.from_preset`.
CLASSES = {
    "ALIGN": "align_keras.ALIGN",
    "ImageEncoder": "align_keras.ImageEncoder",
    "TextEncoder": "align_keras.TextEncoder",
    "ALIGNPreprocessor": "align_keras.ALIGNPreprocessor",
    "ALIGNTokenizer": "align_keras.ALIGNTokenizer",
    "ALIGNImageConverter": "align_keras.ALIGNImageConverter",
    "Index": "align_keras.search.Index",
}


def resolve(name):
    """Returns the object with a dotted name, a module or an attribute.

    Raises:
        AttributeError: if a part of the name doesn't exist.
    """
    value = importlib.import_module("align_keras")
    parts = name.split(".")[1:]
    for number, part in enumerate(parts):
        if hasattr(value, part):
            value = getattr(value, part)
            continue
        module = ".".join(["align_keras", *parts[: number + 1]])
        if not isinstance(value, types.ModuleType):
            raise AttributeError(f"{name} has no attribute {part}")
        try:
            value = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise AttributeError(f"{module} doesn't exist") from error
    return value


def check_name(name, is_called):
    """Raises AttributeError for a missing name, and TypeError for a called module."""
    value = resolve(name)
    if is_called and not callable(value):
        raise TypeError(f"{name} is not a function or a class")


def names_of_pages():
    """Returns a dict from (dotted name, True if it is called) to the first page."""
    names = {}
    for path in PAGES:
        for match in DOTTED.finditer(read_page(path)):
            key = (f"align_keras{match['path']}", match["call"] is not None)
            names.setdefault(key, path.name)
    return names


@pytest.mark.parametrize("name, is_called", sorted(names_of_pages()))
def test_a_dotted_name_resolves_completely(name, is_called):
    check_name(name, is_called)


def members_of_pages():
    """Returns the members of public classes in inline code, such as `Index.latest`."""
    pattern = re.compile(rf"(?<![\w.])({'|'.join(CLASSES)})\.([a-z_]\w*)")
    return sorted(
        {
            match.groups()
            for path in PAGES
            for code in inline_codes(read_page(path))
            for match in pattern.finditer(code)
        }
    )


@pytest.mark.parametrize("class_name, member", members_of_pages())
def test_a_member_of_a_public_class_exists(class_name, member):
    check_name(f"{CLASSES[class_name]}.{member}", is_called=False)


def modules_used_as_functions(text):
    """Returns the sentences in which a module may be read as a function.

    A sentence makes a module clear by the word module, package or import, or by a
    preposition, as in "`open_url` of `align_keras.utils.remote`".
    """
    unclear = []
    for sentence in re.split(r"(?<=[.!?])\s|\n\n", prose(text)):
        words = " ".join(sentence.split())
        if re.search(r"\b(modules?|packages?|imports?)\b", words):
            continue
        unclear += [
            words
            for match in DOTTED.finditer(words)
            if is_plain_module(resolve(f"align_keras{match['path']}"))
            and not re.search(r"\b(of|in|from) `$", words[: match.start()])
        ]
    return unclear


def is_plain_module(value):
    """Returns True for a module that isn't a package."""
    return isinstance(value, types.ModuleType) and not hasattr(value, "__path__")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_prose_names_modules_as_modules(path):
    assert modules_used_as_functions(read_page(path)) == []


def test_a_module_that_reads_as_a_function_is_detected():
    name = "`align_keras.corpus.filters.pairs`"
    unclear = f"{name} filters pairs."
    clear = f"The module {name} filters pairs. `keep` of {name} filters pairs."
    assert modules_used_as_functions(f"{clear} {unclear}") == [unclear]


PYTHON_BLOCKS = [
    pytest.param(block.text, id=f"{path.stem}-{number}")
    for path in PAGES
    for number, block in enumerate(code_blocks(read_page(path)))
    if block.language == "python" and "--8<--" not in block.text
]


@pytest.mark.parametrize("code", PYTHON_BLOCKS)
def test_imports_in_a_python_block_resolve(code):
    check_imports(code)


def check_imports(code):
    """Checks the imports of align_keras in a block, and the calls of their names."""
    tree = ast.parse(code)
    imported = {"align_keras": "align_keras"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_of_package(node.module):
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if is_of_package(alias.name) and alias.asname:
                    imported[alias.asname] = alias.name
    for name in imported.values():
        check_name(name, is_called=False)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, path = ast.unparse(node.func).partition(".")
            if first in imported and re.fullmatch(r"[\w.]*", path):
                name = ".".join(filter(None, [imported[first], path]))
                check_name(name, is_called=True)


def is_of_package(module):
    return (module or "").partition(".")[0] == "align_keras"


@pytest.mark.parametrize(
    "code, error",
    [
        ("from align_keras.search import Index\nIndex.open('a')", None),
        ("import align_keras.search as s\ns.Index.latest()", None),
        ("from align_keras.search import Idnex", AttributeError),
        ("import align_keras\nalign_keras.evalute()", AttributeError),
        ("from align_keras.search import Index\nIndex.find()", AttributeError),
        ("from align_keras import planning\nplanning()", TypeError),
        ("from align_keras.corpus.filters import pairs\npairs([])", TypeError),
    ],
)
def test_a_wrong_name_in_code_is_detected(code, error):
    if error is None:
        check_imports(code)
    else:
        with pytest.raises(error):
            check_imports(code)


@pytest.mark.parametrize(
    "name, error",
    [
        ("align_keras.utils.remote.retries", None),
        ("align_keras.corpus.filters.pairs", TypeError),
        ("align_keras.corpus.filters.absent", AttributeError),
        ("align_keras.ALIGN.from_presets", AttributeError),
    ],
)
def test_a_wrong_dotted_name_is_detected(name, error):
    if error is None:
        check_name(name, is_called=False)
    else:
        with pytest.raises(error):
            check_name(name, is_called=True)


def test_the_classes_are_public():
    assert {"ALIGN", "ImageEncoder", "TextEncoder"} <= set(align_keras.__all__)
    assert len(names_of_pages()) > 30
    assert len(members_of_pages()) >= 5
