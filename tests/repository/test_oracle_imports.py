"""Only `tests.oracles` imports torch, in a process without TensorFlow.

A process that has imported TensorFlow is aborted by LLVM when torch brings triton.
"""

import ast
import pathlib

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
# What is torch, and what imports it.
ORACLES = {
    "clip_benchmark",
    "efficientnet_lite_pytorch",
    "open_clip",
    "torch",
    "torchvision",
    "transformers",
}
TENSORFLOW = {"align_keras", "keras", "keras_hub", "tensorflow", "tf_keras"}


def imported(source):
    """Yields the first part of each module that a file imports, by any means."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            name = node.args[0]
            if called in ("importorskip", "import_module", "__import__"):
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value.split(".")[0]


@pytest.mark.parametrize("folder", ["oracles", "elsewhere"])
def test_no_process_imports_torch_and_tensorflow(folder):
    of_oracles = set((TESTS / "oracles").glob("*.py"))
    files = of_oracles if folder == "oracles" else {*TESTS.rglob("*.py")} - of_oracles
    refused = TENSORFLOW if folder == "oracles" else ORACLES
    wrong = {
        f"{path.relative_to(TESTS)}: {name}"
        for path in files
        for name in imported(path.read_text(encoding="utf-8"))
        if name in refused
    }
    assert files and not wrong


@pytest.mark.parametrize(
    "line",
    [
        "import torch.nn as nn",
        "from torch import nn",
        "def f():\n    import torch",
        "torch = pytest.importorskip('torch.utils')",
        "importlib.import_module('torch')",
    ],
)
def test_an_import_is_found(line):
    assert set(imported(line)) == {"torch"}
    assert not set(imported("find_spec('torch')\nneeds('torch')\nfrom . import torch"))
