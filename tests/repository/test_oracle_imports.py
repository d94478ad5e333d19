"""Only `tests.oracles` imports torch, in a process without TensorFlow.

If torch is installed with triton, LLVM aborts a process that imports both.
"""

import ast
import pathlib

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
# Packages that import torch.
TORCH_PACKAGES = {
    "clip_benchmark",
    "efficientnet_lite_pytorch",
    "open_clip",
    "torch",
    "torchvision",
    "transformers",
}
# Packages that import TensorFlow.
TENSORFLOW_PACKAGES = {"align_keras", "keras", "keras_hub", "tensorflow", "tf_keras"}


def imported(source):
    """Yields the top-level package of each import in a file, also of lazy imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "attr", getattr(node.func, "id", None))
            name = node.args[0]
            if function in ("importorskip", "import_module", "__import__"):
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value.split(".")[0]


@pytest.mark.ci
@pytest.mark.parametrize("folder", ["oracles", "elsewhere"])
def test_no_process_imports_torch_and_tensorflow(folder):
    oracle_files = set((TESTS / "oracles").glob("*.py"))
    files = oracle_files
    if folder != "oracles":
        files = {*TESTS.rglob("*.py")} - oracle_files
    forbidden = TENSORFLOW_PACKAGES if folder == "oracles" else TORCH_PACKAGES
    wrong_imports = {
        f"{path.relative_to(TESTS)}: {name}"
        for path in files
        for name in imported(path.read_text(encoding="utf-8"))
        if name in forbidden
    }
    assert files and not wrong_imports
