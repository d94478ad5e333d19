"""Public names of `align_keras`, and files that Keras opens after the import."""

import ast
import collections
import configparser
import importlib
import os
import pathlib
import pkgutil
import platform
import subprocess
import sys

import keras
import numpy as np
import pytest
from tensorflow.python.framework import test_util

import align_keras
from align_keras.utils.keras_objects import register_with_keras
from tests.helpers.small import small_align, small_batch

ROOT = pathlib.Path(__file__).resolve().parents[2]
FRESH = """
import sys
import align_keras, align_keras.models
loaded = {"tensorflow", "keras"} & set(sys.modules)
assert not loaded, loaded
import keras
assert "align_keras.models.align" not in sys.modules
model = keras.saving.load_model(sys.argv[1])
assert isinstance(model, align_keras.ALIGN), type(model)
assert isinstance(model.optimizer, align_keras.Lamb), type(model.optimizer)
assert type(align_keras.ALIGN.from_preset(sys.argv[1]).optimizer) is align_keras.Lamb
print(float(model.temperature))
"""


def test_the_package_has_its_packages_and_version():
    assert align_keras.models.ALIGN is align_keras.ALIGN
    assert "models" in dir(align_keras) and "cli" in dir(align_keras)
    parts = align_keras.__version__.split(".")
    assert len(parts) == 3 and all(part.isdigit() for part in parts)
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert parser["metadata"]["version"] == "attr: align_keras.__version__"
    with pytest.raises(AttributeError, match="no attribute 'model'"):
        align_keras.model  # noqa: B018


def test_onednn_is_on_unless_the_user_disables_it(monkeypatch):
    # TensorFlow disables oneDNN by default on x86 processors without VNNI.
    if platform.machine() == "x86_64":
        assert test_util.IsMklEnabled()
    for value in ("0", "1"):
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", value)
        importlib.reload(align_keras)
        assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == value


def registered_objects():
    """Returns the classes and placeholders that the package registers with Keras."""
    return {
        name: cls
        for name, cls in keras.saving.get_custom_objects().items()
        if name.startswith("align_keras>")
    }


def test_every_registered_class_can_be_opened_before_its_module_is_imported(
    monkeypatch,
):
    prefix = "align_keras."
    for package in ("layers", "models", "optimizers", "losses", "training"):
        folder = ROOT / "align_keras" / package
        for module in pkgutil.iter_modules([str(folder)]):
            importlib.import_module(f"{prefix}{package}.{module.name}")
    registered = registered_objects()
    classes = {
        name: cls
        for name, cls in registered.items()
        if cls.__module__.startswith(prefix)
    }
    custom_objects = keras.saving.get_custom_objects()
    for name in registered:
        del custom_objects[name]
    try:
        importlib.reload(align_keras)
        placeholders = registered_objects()
    finally:
        custom_objects.update(registered)
    assert set(placeholders) == set(classes)
    for name, cls in classes.items():
        monkeypatch.setattr(cls, "from_config", classmethod(lambda cls, config: cls))
        assert placeholders[name] is not cls
        assert placeholders[name].from_config({}) is cls


def test_a_placeholder_imports_its_class_when_opened():
    name = "align_keras>Temperature"
    layer = align_keras.layers.Temperature(0.5)
    config = keras.saving.serialize_keras_object(layer)
    custom_objects = keras.saving.get_custom_objects()
    registered_class = custom_objects.pop(name)
    try:
        register_with_keras({"Temperature": "align_keras.layers.temperature"})
        assert custom_objects[name] is not registered_class
        opened = keras.saving.deserialize_keras_object(config)
    finally:
        custom_objects[name] = registered_class
    assert isinstance(opened, registered_class) and opened.initial_temperature == 0.5


@pytest.mark.ci
def test_a_keras_file_opens_in_a_fresh_process(tmp_path):
    model = small_align(initial_temperature=0.5)
    model.compile(recipe="paper")
    model(small_batch())
    model.save(tmp_path / "model.keras")
    process = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "model.keras")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert np.isclose(float(process.stdout), 0.5)


# Every command has these functions in its module.
COMMAND_FUNCTIONS = {"add_arguments", "run"}
# Programs that are copied into exports. They do not import this package.
PROGRAM_FOLDERS = {"litert_examples", "serving"}


def package_modules():
    """Returns the modules of the package, without the programs of exports."""
    return [
        path
        for path in sorted((ROOT / "align_keras").rglob("*.py"))
        if path.parent.name not in PROGRAM_FOLDERS
    ]


def public_names(module):
    """Returns the functions, classes and constants that a module defines."""
    names = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                names |= {part.id for part in ast.walk(target) if hasattr(part, "id")}
    if module.parent.name == "cli":
        names -= COMMAND_FUNCTIONS
    # `main` is the entry point of a program.
    return {name for name in names - {"main"} if not name.startswith("_")}


def find_repeated_names(modules_of_names):
    """Returns a dict from each name that several modules define to those modules."""
    return {
        name: modules for name, modules in modules_of_names.items() if len(modules) > 1
    }


def test_public_names_have_one_meaning():
    modules = collections.defaultdict(list)
    for path in package_modules():
        for name in public_names(path):
            modules[name].append(str(path.relative_to(ROOT)))
    assert not find_repeated_names(modules), "Rename one of each pair."


def test_file_names_are_unique():
    modules = collections.defaultdict(list)
    for path in package_modules():
        if path.name != "__init__.py":
            modules[path.name].append(str(path.relative_to(ROOT)))
    assert not find_repeated_names(modules), "Rename one of each pair."
