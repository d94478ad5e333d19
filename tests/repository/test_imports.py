"""Packages only import packages that the table allows, also in lazy imports."""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALIGN_KERAS = "align_keras"

# Package → packages that it may import in addition to `utils` and itself. `models`
# imports `losses` and `optimizers` (LAMB and the learning-rate schedules), because the
# public API is `model.compile()` and `model.fit()`. It imports `data`, because `fit`
# accepts pairs, and `evaluation`, which is pure NumPy, for `model.classify()`.
PACKAGES: dict[str, tuple[str, ...]] = {
    "utils": (),
    "corpus": (),
    "text": (),
    "images": (),
    "datasets": ("corpus",),
    "layers": (),
    "losses": ("config",),
    "optimizers": (),
    # Names, sizes and folders of models, and their files.
    "presets": ("text", "images"),
    "preprocessing": ("presets", "text", "images"),
    # Pairs → batches, for `fit` and for runs.
    "data": ("images", "datasets", "losses", "preprocessing", "text"),
    "models": (
        "layers",
        "text",
        "images",
        "losses",
        "optimizers",
        "presets",
        "preprocessing",
        "data",
        "evaluation",
    ),
    "training": ("losses", "models", "data", "optimizers", "config", "text"),
    "evaluation": (),
    "export": ("text", "images"),
    # LiteRT and ONNX towers run without TensorFlow, and `corpus.image` decodes images
    # without it.
    "embedders": (
        "models",
        "presets",
        "export",
        "images",
        "text",
        "evaluation",
        "corpus",
    ),
    "search": (
        "embedders",
        "models",
        "presets",
        "export",
        "corpus",
        "images",
        "evaluation",
    ),
    # Pages and charts of measurements.
    "reports": ("corpus", "evaluation"),
    # Benchmarks of the paper, from their data to their metrics.
    "protocols": (
        "reports",
        "embedders",
        "training",
        "data",
        "models",
        "preprocessing",
        "datasets",
        "evaluation",
        "config",
    ),
    # Training runs from a configuration, and the folders of runs.
    "runs": (
        "protocols",
        "reports",
        "search",
        "training",
        "data",
        "embedders",
        "export",
        "models",
        "presets",
        "datasets",
        "corpus",
        "evaluation",
        "config",
        "losses",
        "optimizers",
        "text",
        "images",
    ),
    # Estimates of the operations, memory and days of a run.
    "planning": ("search", "presets", "config"),
    "config": (),
}
# The command line imports every package, and no package imports it.
COMMAND_LINE = "cli"
# Packages and modules whose import must not load TensorFlow.
LIGHT = (
    "cli/convert.py",
    "cli/data.py",
    "cli/export.py",
    "cli/index.py",
    "export/__init__.py",
    "runs/model_export.py",
    "cli/embed.py",
    "cli/evaluate.py",
    "protocols/run_protocol.py",
    "protocols/suite.py",
    "cli/main.py",
    "cli/push.py",
    "runs/card_facts.py",
    "runs/session.py",
    "runs/experiment.py",
    "runs/hub_upload.py",
    "runs/finetuning.py",
    "runs/run_folder.py",
    "cli/plan.py",
    "cli/quickstart.py",
    "cli/search.py",
    "cli/serve.py",
    "cli/train.py",
    "utils",
    "config",
    "evaluation",
    "corpus",
    "embedders/__init__.py",
    "embedders/embedder.py",
    "embedders/clip_benchmark_model.py",
    "embedders/label_thresholds.py",
    "embedders/litert_embedder.py",
    "embedders/loading.py",
    "embedders/locations.py",
    "embedders/mteb_encoder.py",
    "embedders/onnx_embedder.py",
    "embedders/pixels.py",
    "embedders/saved_model_embedder.py",
    "embedders/tower_embedder.py",
    "models/__init__.py",
    "models/composed_query.py",
    "planning",
    "presets/__init__.py",
    "presets/hub.py",
    "presets/sizes.py",
    "presets/table.py",
    "presets/tower_costs.py",
    "presets/variants.py",
    "reports",
    "search",
    "text/vocabulary.py",
)
TOP_LEVEL = {
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "README.md",
    "align_keras",
    "docs",
    "experiments",
    "pyproject.toml",
    "saved_models",
    "setup.cfg",
    "tests",
    "tools",
}


def modules_of(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Maps the dotted name of each module to its file."""
    modules = {}
    for path in sorted((root / ALIGN_KERAS).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports_of(
    name: str, path: pathlib.Path, modules: dict[str, pathlib.Path]
) -> Iterator[tuple[int, str]]:
    """Yields (line, dotted name) of every import of align_keras in a file."""
    is_package = path.name == "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if is_package:
        # Type checkers need these imports. Python imports the names on first use.
        tree.body = [node for node in tree.body if not is_for_type_checkers(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                length = max(len(parts) - node.level + is_package, 0)
                base = ".".join([*parts[:length], *filter(None, [base])])
            for alias in node.names:
                member = f"{base}.{alias.name}"
                yield node.lineno, member if member in modules else base
        elif isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "attr", getattr(node.func, "id", None))
            target = node.args[0]
            if function in ("import_module", "__import__", "find_spec"):
                if isinstance(target, ast.Constant) and isinstance(target.value, str):
                    yield node.lineno, target.value


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def package_of(name: str) -> str:
    """Returns the package of a module: `models` for `align_keras.models.align`.

    The package of align_keras is `""`.
    """
    return name.split(".")[1] if "." in name else ""


def find_errors(root: pathlib.Path) -> list[str]:
    """Returns one line for each forbidden import, unknown package and cycle."""
    modules = modules_of(root)
    errors = []
    graph = {}
    for name, path in modules.items():
        package = package_of(name)
        if package and package != COMMAND_LINE and package not in PACKAGES:
            errors.append(f"{path.relative_to(root)}: unknown package {package}")
            continue
        graph[name] = []
        for line, target in imports_of(name, path, modules):
            if target.split(".")[0] != ALIGN_KERAS:
                continue
            graph[name].append(target)
            if not may_import(package, package_of(target)):
                location = f"{path.relative_to(root)}:{line}"
                errors.append(f"{location}: {package} must not import {target}")
    return errors + [" -> ".join(cycle) for cycle in find_cycles(graph)]


def may_import(package: str, target: str) -> bool:
    """Returns True if the table allows a package to import the target package."""
    if package == COMMAND_LINE:
        return True
    if package == "":
        # align_keras/__init__.py imports the public names of all packages.
        return target != COMMAND_LINE
    return target in (package, "utils", *PACKAGES[package])


def find_cycles(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Returns a cycle of modules for each back edge of a depth-first walk."""
    cycles = []
    done = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            cycles.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in graph.get(name, ()):
                walk(target, [*path, name])
            done.add(name)

    for name in graph:
        walk(name, [])
    return cycles


def test_every_import_is_allowed():
    errors = find_errors(ROOT)
    assert not errors, "\n".join(errors)


def test_the_table_has_no_cycle():
    assert not find_cycles(PACKAGES)
    assert all(target in PACKAGES for row in PACKAGES.values() for target in row)


def test_the_architecture_page_has_the_table():
    page = ROOT / "docs" / "pages" / "how" / "architecture.md"
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| .+ \|$", page.read_text("utf-8"), re.MULTILINE
    )
    assert rows.pop() == (COMMAND_LINE, "all")
    # A package is listed after the packages that it imports.
    for position, (package, cell) in enumerate(rows):
        packages_above = {name for name, _ in rows[:position]}
        assert set(re.findall(r"`(\w+)`", cell)) <= packages_above, package
    expected = {
        package: ", ".join(f"`{target}`" for target in sorted(targets))
        for package, targets in PACKAGES.items()
    }
    assert dict(rows) == expected and len(rows) == len(expected)


def make_tree(root: pathlib.Path, files: Mapping[str, str]) -> pathlib.Path:
    """Writes files below align_keras, and an empty `__init__.py` in each package."""
    for name, text in files.items():
        path = root / ALIGN_KERAS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in (path.parent, root / ALIGN_KERAS):
            if not (folder / "__init__.py").exists():
                (folder / "__init__.py").write_text("")
    return root


@pytest.mark.parametrize(
    "statement",
    [
        "import os, align_keras.models.align as align",
        "from align_keras import models",
        "from ..models import align",
        "def lazy():\n    from align_keras.models import align",
        "import importlib\nimportlib.import_module('align_keras.models.align')",
        # This import runs align_keras/__init__.py, which imports all packages.
        "from align_keras import ALIGN",
    ],
)
def test_a_forbidden_import_is_reported(tmp_path, statement):
    make_tree(tmp_path, {"layers/norm.py": statement, "models/align.py": ""})
    assert len(find_errors(tmp_path)) == 1


def test_allowed_imports_pass(tmp_path):
    statements = (
        "from align_keras.layers import norm",
        "from ..layers import norm",
        "from .. import utils",
        "from .text_encoder import TextEncoder",
        "import tensorflow.python as align_keras_models",
    )
    files = ("models/text_encoder.py", "layers/norm.py", "utils/files.py")
    text = "\n".join(statements)
    make_tree(tmp_path, {"models/align.py": text, **dict.fromkeys(files, "")})
    assert not find_errors(tmp_path)


def test_a_cycle_within_a_package_is_reported(tmp_path):
    lazy_import = "def lazy():\n    from align_keras.models import align"
    eager_import = "from align_keras.models.tower import Tower"
    make_tree(
        tmp_path, {"models/align.py": eager_import, "models/tower.py": lazy_import}
    )
    assert find_errors(tmp_path) == [
        "align_keras.models.align -> align_keras.models.tower -> "
        "align_keras.models.align"
    ]


def light_modules() -> list[str]:
    """Returns the names of the modules that must not load TensorFlow."""
    names = [ALIGN_KERAS]
    for name, path in modules_of(ROOT).items():
        file = path.relative_to(ROOT / ALIGN_KERAS).as_posix()
        if file in LIGHT or file.split("/")[0] in LIGHT:
            names.append(name)
    return names


@pytest.mark.ci
def test_light_modules_do_not_load_tensorflow():
    script = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    heavy = {"tensorflow", "keras", "tensorflow_datasets", "torch"} & set(sys.modules)
    if heavy:
        sys.exit(f"{name} loads {', '.join(sorted(heavy))}")
"""
    process = subprocess.run(
        [sys.executable, "-c", script, *light_modules()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert f"{ALIGN_KERAS}.cli.main" in light_modules()


def test_a_search_does_not_load_the_corpus():
    # Its import takes a third of the time of a search.
    script = """
import sys
import align_keras.cli.search, align_keras.search.image_index
print("align_keras.corpus" in sys.modules)
"""
    command = [sys.executable, "-c", script]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == "False\n"


@pytest.mark.ci
def test_no_test_file_imports_another_test_file():
    """Shared code is in helpers, so that each test file can run alone."""
    imports = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                if names[0] == "tests" and any(n.startswith("test_") for n in names):
                    imports.append(f"{path.relative_to(ROOT)}: {node.module}")
    assert not imports


def test_the_repository_has_no_new_top_level_entries():
    process = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        pytest.skip("not a git checkout")
    names = {line.strip('"').split("/")[0] for line in process.stdout.splitlines()}
    names = {name for name in names if (ROOT / name).exists()}
    assert {name for name in names if name[0] != "."} <= TOP_LEVEL
