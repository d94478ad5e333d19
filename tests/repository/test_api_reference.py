"""Each public name has an entry in the API reference with an example that runs."""

import ast
import importlib
import json
import pathlib
import re
import tarfile

import numpy as np
import pytest

from tests.helpers.docs_text import ROOT

# `docs/hooks.py` imports the module `public_api` without the folder.
DOCS = ROOT / "docs"
FLOWERS = ("a red flower", "a flower in a garden", "the petals of a dahlia")
TEMPLES = ("a temple in China", "the roof of a temple", "a palace and a blue sky")


@pytest.fixture(scope="module")
def public_api():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        yield importlib.import_module("public_api")


def test_the_reference_has_each_public_name_once(public_api):
    assert public_api.wrong_names() == ([], [])


def test_each_entry_of_a_package_is_public(public_api):
    packages = {"", *public_api.public_packages()}
    private = [
        (package, name)
        for package, name in public_api.listed_names()
        if package in packages and name not in public_api.public_names(package)
    ]
    assert not private, "Add these names to `__all__`, or remove their entries."


def test_each_package_that_exports_names_has_a_list_of_public_names(public_api):
    packages = []
    for path in (ROOT / "align_keras").glob("*/__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        if any((node.module or "").startswith("align_keras") for node in imports):
            packages.append(path.parent.name)
    assert len(packages) > 10
    assert set(packages) <= set(public_api.public_packages())


def test_each_entry_has_an_example(public_api):
    names = public_api.listed_names()
    without = [entry for entry in names if not public_api.has_example(*entry)]
    assert len(names) > 160
    assert not without, "Add a doctest or a code block that uses the name."


def test_a_missing_entry_and_a_missing_example_are_detected(
    public_api, monkeypatch, tmp_path
):
    assert not public_api.has_example("utils.files", "atomic_write")
    page = "```python\nfrom align_keras.search import Index, Query, Query\n```\n"
    (tmp_path / "search.md").write_text(page)
    monkeypatch.setattr(public_api, "_PAGES", tmp_path)
    missing, repeated = public_api.wrong_names()
    assert "Hit" in missing and "Index" not in missing and repeated == ["Query"]


# === Code blocks ===


@pytest.fixture
def data_folder(tmp_path, monkeypatch, hub_stub):
    """Working directory with the files that the examples read, made of two photos.

    The user is logged in to a stub of the Hugging Face Hub.
    """
    import fsspec
    import tensorflow_datasets as tfds
    from PIL import Image
    from sklearn.datasets import load_sample_images

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", hub_stub.add_user("user"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "data"))
    for name in ("photos", "crops", "pages", "shards"):
        pathlib.Path(name).mkdir()
    lines = []
    for name, captions, pixels in zip(
        ("china", "flower"),
        (TEMPLES, FLOWERS),
        load_sample_images().images,
        strict=True,
    ):
        Image.fromarray(pixels).save(f"photos/{name}.jpg")
        Image.fromarray(pixels).save(f"pages/{name}.jpg")
        for number, crop in enumerate(parts(pixels)):
            Image.fromarray(crop).save(f"crops/{name}_{number}.jpg")
            lines.append(f"crops/{name}_{number}.jpg,{captions[number % 3]}\n")
    pathlib.Path("pairs.csv").write_text("".join(["image,caption\n", *lines]))
    pathlib.Path("more.csv").write_text("".join(["image,caption\n", *lines[3:]]))
    pathlib.Path("captions.txt").write_text("\n".join(FLOWERS + TEMPLES))
    pathlib.Path("pages/index.html").write_text(
        '<html lang="en"><img src="china.jpg" alt="A temple in China">'
        '<img src="flower.jpg" alt="A red flower in a garden"></html>'
    )
    drawings = pathlib.Path("saved_models/drawings/clipart")
    drawings.mkdir(parents=True)
    Image.new("RGB", (9, 9), "red").save(drawings / "red.png")
    row = {"id": "1", "image": "red.png", "caption": ["red"], "category": ""}
    row["split"] = "train"
    (drawings / "pairs.jsonl").write_text(json.dumps(row))
    for shard, name in enumerate(("china", "flower")):
        with tarfile.open(f"shards/{shard:05}.tar", "w") as tar:
            for path in sorted(pathlib.Path("crops").glob(f"{name}_*.jpg")):
                caption = path.with_suffix(".txt")
                caption.write_text(FLOWERS[0] if name == "flower" else TEMPLES[0])
                tar.add(path, path.name)
                tar.add(caption, caption.name)
    yield tmp_path
    fsspec.filesystem("memory").store.clear()


def parts(pixels):
    """Returns six different parts of a photo, uint8 arrays (200, 200, 3)."""
    return [pixels[y : y + 200, x : x + 200] for y in (0, 200) for x in (0, 200, 400)]


def run_block(block, names):
    """Runs a code block, and compares results with the comments behind them.

    Args:
        block: str, Python code. A comment that follows an expression is its value.
        names: dict, namespace of the code.
    """
    for statement in ast.parse(block).body:
        source = ast.unparse(statement)
        if not isinstance(statement, ast.Expr):
            exec(source, names)
            continue
        value = eval(source, names)
        last_line = block.splitlines()[statement.end_lineno - 1]
        expected = re.search(r"  # (.+)$", last_line)
        if expected and re.match(r"[\[({'\d-]|True|False|TensorShape", expected[1]):
            assert repr(value) == expected[1], source


def test_a_wrong_result_in_a_block_is_detected():
    run_block("a = 3\na + 1  # 4\na  # of the example", {})
    with pytest.raises(AssertionError):
        run_block("a = 3\na + 1  # 5", {})


@pytest.mark.release
def test_the_code_blocks_of_the_reference_run(data_folder, public_api):
    import keras
    import tensorflow as tf
    import tensorflow_datasets as tfds

    import align_keras

    modules = {"align_keras": align_keras, "np": np, "tf": tf, "tfds": tfds}
    modules["keras"] = keras
    count = 0
    for package, name in public_api.listed_names():
        module, _, _ = public_api.home_of(package, name).rpartition(".")
        for block in public_api.code_blocks(package, name):
            definition = getattr(importlib.import_module(module), name)
            print(f"running the example of {name}:\n{block}")
            run_block(block, {**modules, name: definition})
            count += 1
    assert count > 15
