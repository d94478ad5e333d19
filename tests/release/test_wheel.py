"""A wheel contains the package data, and finds them in any folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = ("align_keras", "experiments", "saved_models/align_small_en")
FILES = (
    "README.md",
    "LICENSE",
    "pyproject.toml",
    "setup.cfg",
    "saved_models/__init__.py",
)
# Embeds a caption and loads an experiment. Prints the paths of the package data.
SCRIPT = """
import importlib.resources
import align_keras
from align_keras.config import experiments
from align_keras.utils.shared_data import find_shipped_model
model = align_keras.load_model("align_small_en")
assert model.encode_texts(["a cat"]).shape == (1, model.dimension)
print(align_keras.__file__)
print(find_shipped_model("align_small_en"))
print(experiments("corpora")["paper"])
print(importlib.resources.files("align_keras.experiments"))
"""


def pip(*words, folder):
    command = [sys.executable, "-m", "pip", *words, "--disable-pip-version-check"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds the wheel in a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "clone"
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, clone / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, clone / name)
    # The runs of a user must not be part of the wheel.
    shutil.copytree(clone / "experiments", clone / "saved_models" / "my_run")
    pip("wheel", "-q", "--no-deps", "-w", folder, clone, folder=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.ci
def test_the_wheel_has_all_data_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {
            info.filename.removeprefix("align_keras/"): info.file_size
            for info in archive.infolist()
            if info.filename.startswith("align_keras/")
        }
    expected = {
        path.relative_to(ROOT).as_posix(): path.stat().st_size
        for folder in ("experiments", "saved_models/align_small_en")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected["saved_models/__init__.py"] = (
        (ROOT / "saved_models" / "__init__.py").stat().st_size
    )
    packaged = {
        name: size
        for name, size in sizes.items()
        if name.startswith(("experiments/", "saved_models/"))
    }
    assert packaged == expected
    assert "py.typed" in sizes
    for folder in ("export", "reports", "search", "protocols"):
        for path in (ROOT / "align_keras" / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert path.relative_to(ROOT / "align_keras").as_posix() in sizes


@pytest.mark.ci
def test_an_installation_in_a_folder_finds_its_data(wheel, tmp_path):
    """`pip install --target` uses no `sys.prefix`."""
    target = tmp_path / "target"
    pip("install", "-q", "--no-deps", "--target", target, wheel, folder=tmp_path)
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    package = target / "align_keras"
    assert process.stdout.split() == [
        str(package / "__init__.py"),
        str(package / "saved_models" / "align_small_en"),
        str(package / "experiments" / "corpora" / "paper.yaml"),
        str(package / "experiments"),
    ]
