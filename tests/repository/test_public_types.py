"""Type checkers see the types of the public names."""

import ast
import json
import os
import pathlib
import pkgutil
import re
import subprocess
import sys
import venv

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAZY = [
    path
    for path in sorted((ROOT / "align_keras").rglob("__init__.py"))
    if "__getattr__" in path.read_text("utf-8")
]
# Script of a user. A type checker prints the types of the last lines.
CORRECT = """
import pathlib

import numpy as np

import align_keras
from align_keras import ALIGN, InputError, evaluate, load_model
from align_keras.embedders import Embedder
from align_keras.export import export_saved_model
from align_keras.losses import ContrastiveLoss
from align_keras.models import ImageEncoder, preset_names
from align_keras.optimizers import Lamb
from align_keras.search import Hit, Index, Query
from align_keras.text import WordPieceTokenizer


def best_captions(model: Embedder, folder: pathlib.Path, texts: list[str]) -> list[str]:
    images = sorted(folder.glob("*.jpg"))
    scores: np.ndarray = model.encode_images(images) @ model.encode_texts(texts).T
    return [texts[row] for row in scores.argmax(axis=1)]


def trained(vocabulary: list[str], images: np.ndarray, captions: list[str]) -> ALIGN:
    names: list[str] = list(preset_names())
    align = ALIGN.from_preset(names[0], vocabulary=vocabulary)
    align.compile(optimizer=Lamb(1e-3), loss=ContrastiveLoss())
    align.fit({"image": images, "caption": captions}, epochs=2)
    export_saved_model(align, "export")
    return align


def search(texts: list[str]) -> list[Hit]:
    index = Index.open("photos.index", model=load_model("align_small_en", "litert"))
    return index.query(Query(text=" ".join(texts)))


try:
    result = evaluate("align_small_en", "retrieval", data="stamps")
    print(result["metrics"]["t2i/recall_at_10"], align_keras.__version__)
except InputError as error:
    print(error)
reveal_type(align_keras.ALIGN)
reveal_type(align_keras.load_model)
reveal_type(align_keras.evaluate)
reveal_type(align_keras.models.ImageEncoder)
reveal_type(align_keras.models.ALIGN.from_preset("align_nano"))
reveal_type(align_keras.losses.ContrastiveLoss())
reveal_type(ImageEncoder)
reveal_type(WordPieceTokenizer)
"""
# Each line is a mistake.
WRONG = """\
import align_keras; align_keras.load_modell("align_small_en")
import align_keras; align_keras.modells.ImageEncoder()
import align_keras; align_keras.models.ImageEncoderr()
import align_keras; align_keras.load_model("align_small_en", dimension=64)
import align_keras; align_keras.load_model(3)
import align_keras; align_keras.load_model("align_small_en").encode_text(["a cat"])
import align_keras; align_keras.evaluate("align_small_en")
import align_keras; align_keras.finetune("align_small_en", pears="pairs.csv")
from align_keras import ALIGNN
from align_keras.models import ImageEncoderr
from align_keras.embedders import load_modell
from align_keras.text import WordPieceTokenizerr
"""


@pytest.mark.parametrize("path", LAZY, ids=lambda path: path.parent.name)
def test_type_checkers_see_the_lazy_names(path):
    tree = ast.parse(path.read_text("utf-8"))
    [names] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "_PUBLIC"
    ]
    [block] = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = {
        # The alias makes a name public: `from package.module import Name as Name`.
        alias.asname: node.module
        for node in block.body
        for alias in node.names
        if alias.asname == alias.name
    }
    packages = {}
    if path.parent == ROOT / "align_keras":
        modules = pkgutil.iter_modules([path.parent])
        packages = {module.name: "align_keras" for module in modules if module.ispkg}
    assert imports == names | packages
    assert [type(node) for node in block.orelse] == [ast.FunctionDef]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Python of an environment in which the package and NumPy are installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    [packages] = folder.glob("[lL]ib/**/site-packages")
    (packages / "align_keras.pth").write_text(str(ROOT), "utf-8")
    # Checking all other packages of this environment takes longer.
    (packages / "numpy").symlink_to(pathlib.Path(np.__file__).parent)
    [program] = [*folder.glob("bin/python"), *folder.glob("Scripts/python.exe")]
    return program


def mypy(python, script):
    """Returns the messages as tuples (line, is_error, text)."""
    pytest.importorskip("mypy")
    options = ["--output=json", f"--cache-dir={os.devnull}"]
    command = [sys.executable, "-m", "mypy", *options, "--python-executable", python]
    output = subprocess.run([*command, script], capture_output=True, text=True).stdout
    messages = map(json.loads, output.splitlines())
    return [
        (message["line"], message["severity"] == "error", message["message"])
        for message in messages
    ]


def pyright(python, script):
    """Returns the messages as tuples (line, is_error, text)."""
    folder = pathlib.Path(os.environ.get("ALIGN_KERAS_NPM_DIR", ROOT), "node_modules")
    program = folder / "pyright" / "index.js"
    if not program.is_file():
        pytest.skip("the npm package pyright isn't installed")
    command = ["node", program, "--outputjson", "--pythonpath", python, script]
    output = subprocess.run(command, capture_output=True, text=True).stdout
    return [
        (
            message["range"]["start"]["line"] + 1,
            message["severity"] == "error",
            message["message"],
        )
        for message in json.loads(output)["generalDiagnostics"]
    ]


@pytest.mark.ci
@pytest.mark.parametrize("check", [mypy, pyright])
def test_type_checkers_check_the_script_of_a_user(check, python, tmp_path):
    correct = tmp_path / "correct.py"
    correct.write_text(CORRECT, "utf-8")
    messages = check(python, correct)
    assert not [message for message in messages if message[1]]
    types = [text for _, _, text in messages if text.startswith(("Rev", "Type of"))]
    assert len(types) == CORRECT.count("reveal_type")
    for text in types:
        name = re.search(r"ALIGN|Embedder|ImageEncoder|ContrastiveLoss|WordPiece", text)
        assert name and not re.search(r'is "?(Any|Unknown)', text), text
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG, "utf-8")
    lines = {line for line, is_error, _ in check(python, wrong) if is_error}
    assert lines == set(range(1, WRONG.count("\n") + 1))
