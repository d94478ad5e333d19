"""Holds the rooms' import directions against the code, lazy imports included."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = "align_keras"

# What each room may import besides `utils` and itself. One row differs from the
# first design: `models` may import `losses` and the room `optimizers` (LAMB and
# the learning-rate schedules), because `ALIGN.compile` and `ALIGN.train_step`
# live with the model: `model.compile(); model.fit()` is the public API. Another:
# `export` takes a model and imports none, so that `models` may import it, for
# `model.export_saved_model()`; and `evaluation`, pure NumPy, for `model.classify()`.
ROOMS = {
    "utils": (),
    "corpus": (),
    "text": (),
    "images": (),
    "datasets": ("corpus",),
    # A user's own pairs become batches in `models`, whose `fit` does the same.
    "data": ("text", "images", "datasets", "models"),
    "layers": (),
    "losses": (),
    "optimizers": (),
    "models": (
        *("layers", "text", "images", "losses", "optimizers", "export"),
        "evaluation",
    ),
    "training": ("losses", "models", "data", "optimizers", "config"),
    "evaluation": (),
    "export": ("text", "images"),
    # LiteRT and ONNX towers run without TensorFlow, and `corpus.image` decodes images
    # without it.
    "embedders": ("models", "export", "images", "text", "evaluation", "corpus"),
    "search": ("embedders", "models", "export", "corpus", "images", "evaluation"),
    # Pages and charts of what was measured.
    "reports": ("corpus", "evaluation", "config"),
    # Each benchmark of the paper, from its data to its metrics.
    "protocols": (
        "reports",
        "search",
        "embedders",
        "training",
        "data",
        "models",
        "datasets",
        "evaluation",
        "config",
        "images",
        "text",
    ),
    # From a configuration to a run's folder and back.
    "runs": (
        *("protocols", "reports", "search", "training", "data", "export", "models"),
        *(
            "embedders",
            "datasets",
            "corpus",
            "evaluation",
            "config",
            "losses",
            "optimizers",
        ),
        *("text", "images"),
    ),
    # What a run takes, by formulas.
    "planning": ("models", "config"),
    "config": (),
}
# Where configs meet the rest.
ANYTHING = "cli"
# Rooms and modules whose import must not load TensorFlow.
LIGHT = (
    "cli/convert.py",
    "cli/export.py",
    "cli/index.py",
    "export/__init__.py",
    "runs/export.py",
    "cli/embed.py",
    "cli/evaluate.py",
    "protocols/evaluate.py",
    "cli/main.py",
    "runs/about_run.py",
    "runs/data_errors.py",
    "runs/experiment.py",
    "runs/run.py",
    "runs/run_folder.py",
    "runs/start.py",
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
    "embedders/litert_embedder.py",
    "embedders/loading.py",
    "embedders/locations.py",
    "embedders/onnx_embedder.py",
    "embedders/pixels.py",
    "embedders/saved_model_embedder.py",
    "embedders/tower_embedder.py",
    "models/__init__.py",
    "models/composed_query.py",
    "models/preset_table.py",
    "models/tower_costs.py",
    "models/variants.py",
    "planning",
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


def modules_of(root):
    """Maps each module's dotted name to its file."""
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports_of(name, path, modules):
    """Yields (line, dotted name) of every import of this package in a file."""
    is_package = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                keep = len(parts) - node.level + is_package
                base = ".".join([*parts[: max(keep, 0)], *filter(None, [base])])
            for alias in node.names:
                member = f"{base}.{alias.name}"
                yield node.lineno, member if member in modules else base
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            target = node.args[0]
            if called in ("import_module", "__import__", "find_spec"):
                if isinstance(target, ast.Constant) and isinstance(target.value, str):
                    yield node.lineno, target.value


def room_of(name):
    """`align_keras.models.align` → `models`; the package itself → `""`."""
    return name.split(".")[1] if "." in name else ""


def find_faults(root):
    """Returns one line for each wrong import, unknown room and circle."""
    modules = modules_of(root)
    faults, graph = [], {}
    for name, path in modules.items():
        room = room_of(name)
        if room and room != ANYTHING and room not in ROOMS:
            faults.append(f"{path.relative_to(root)}: unknown room {room}")
            continue
        graph[name] = []
        for line, target in imports_of(name, path, modules):
            if target.split(".")[0] != PACKAGE:
                continue
            graph[name].append(target)
            if not may_import(room, room_of(target)):
                faults.append(
                    f"{path.relative_to(root)}:{line}: {room} must not import {target}"
                )
    return faults + [" -> ".join(circle) for circle in find_circles(graph)]


def may_import(room, target):
    if room in ("", ANYTHING):
        # The package's own __init__ gives the public names of all rooms, but
        # the command line is nobody's library.
        return room == ANYTHING or target != ANYTHING
    return target in (room, "utils", *ROOMS[room])


def find_circles(graph):
    """Returns a circle of modules for each back edge of a depth-first walk."""
    circles, done = [], set()

    def walk(name, path):
        if name in path:
            circles.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in graph.get(name, ()):
                walk(target, [*path, name])
            done.add(name)

    for name in graph:
        walk(name, [])
    return circles


def test_every_import_goes_the_right_way():
    faults = find_faults(ROOT)
    assert not faults, "\n".join(faults)


def test_the_table_itself_has_no_circle():
    assert not find_circles(ROOMS)
    assert all(target in ROOMS for row in ROOMS.values() for target in row)


def test_code_was_looked_at():
    modules = modules_of(ROOT)
    found = [
        target
        for name, path in modules.items()
        for _, target in imports_of(name, path, modules)
        if room_of(target) and target.startswith(PACKAGE)
    ]
    assert len(found) > len(modules)


def make_tree(root, files):
    """A package with the given files, and an empty `__init__.py` a room."""
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in (path.parent, root / PACKAGE):
            if not (folder / "__init__.py").exists():
                (folder / "__init__.py").write_text("")
    return root


@pytest.mark.parametrize(
    "statement",
    [
        "import align_keras.models.align",
        "import os, align_keras.models.align as align",
        "from align_keras.models import align",
        "from align_keras.models.align import ALIGN",
        "from align_keras import models",
        "from ..models import align",
        "from .. import models",
        "from ..models.align import ALIGN",
        "def lazy():\n    from align_keras.models import align",
        "if False:\n    import align_keras.models",
        "import importlib\nimportlib.import_module('align_keras.models.align')",
        "from importlib import import_module\nimport_module('align_keras.models')",
        # The package's __init__ gives the names of every room.
        "import align_keras",
        "from align_keras import ALIGN",
    ],
)
def test_a_wrong_way_import_is_found(tmp_path, statement):
    make_tree(tmp_path, {"layers/norm.py": statement, "models/align.py": ""})
    faults = find_faults(tmp_path)
    assert len(faults) == 1
    assert "layers must not import align_keras" in faults[0]


@pytest.mark.parametrize(
    "statement",
    [
        "from align_keras.layers import norm",
        "from ..layers import norm",
        "from .. import utils",
        "from . import text_encoder",
        "from .text_encoder import TextEncoder",
        "import tensorflow.python as align_keras_models",
    ],
)
def test_a_right_way_import_passes(tmp_path, statement):
    files = ("models/text_encoder.py", "layers/norm.py", "utils/files.py")
    make_tree(tmp_path, {"models/align.py": statement, **dict.fromkeys(files, "")})
    assert not find_faults(tmp_path)


@pytest.mark.parametrize(
    "statement, count", [("from .norm import x", 0), ("from ..models import x", 1)]
)
def test_relative_imports_of_an_init_start_at_its_own_room(tmp_path, statement, count):
    make_tree(tmp_path, {"layers/__init__.py": statement, "layers/norm.py": ""})
    wrong = (
        "align_keras/layers/__init__.py:1: layers must not import align_keras.models"
    )
    assert find_faults(tmp_path) == [wrong][:count]


def test_a_circle_within_a_room_is_found(tmp_path):
    back = "def lazy():\n    from align_keras.models import align"
    there = "from align_keras.models.tower import Tower"
    make_tree(tmp_path, {"models/align.py": there, "models/tower.py": back})
    assert find_faults(tmp_path) == [
        "align_keras.models.align -> align_keras.models.tower -> "
        "align_keras.models.align"
    ]


def test_an_unknown_room_is_found(tmp_path):
    make_tree(tmp_path, {"helpers/misc.py": ""})
    assert "align_keras/helpers/misc.py: unknown room helpers" in find_faults(tmp_path)


def test_nobody_imports_the_command_line(tmp_path):
    make_tree(tmp_path, {"cli/main.py": "import align_keras.models"})
    assert not find_faults(tmp_path)
    make_tree(tmp_path, {"__init__.py": "import align_keras.cli.main"})
    assert len(find_faults(tmp_path)) == 1


def light_modules():
    modules = modules_of(ROOT)
    light = [PACKAGE]
    for name, path in modules.items():
        place = path.relative_to(ROOT / PACKAGE).as_posix()
        if place in LIGHT or place.split("/")[0] in LIGHT:
            light.append(name)
    return light


def test_light_modules_do_not_load_tensorflow():
    script = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    heavy = {"tensorflow", "keras", "tensorflow_datasets", "torch"} & set(sys.modules)
    if heavy:
        sys.exit(f"{name} loads {', '.join(sorted(heavy))}")
"""
    answer = subprocess.run(
        [sys.executable, "-c", script, *light_modules()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert f"{PACKAGE}.cli.main" in light_modules()


def test_no_test_imports_another():
    """What tests share stands beside them, so that each file is run by itself."""
    found = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [*node.module.split("."), *(one.name for one in node.names)]
                if names[0] == "tests" and any(n.startswith("test_") for n in names):
                    found.append(f"{path.relative_to(ROOT)}: {node.module}")
    assert not found


def test_nothing_new_at_the_top_level():
    answer = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        pytest.skip("not a git checkout")
    names = {line.strip('"').split("/")[0] for line in answer.stdout.splitlines()}
    names = {name for name in names if (ROOT / name).exists()}
    assert {name for name in names if name[0] != "."} <= TOP_LEVEL
