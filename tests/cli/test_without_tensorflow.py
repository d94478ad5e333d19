"""Commands and public names in a process without TensorFlow.

`tools/check_light.py` runs more commands in an environment without it.
"""

import json
import os
import subprocess
import sys

import pytest

from align_keras.utils.errors import TENSORFLOW_MODULES
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes

INSTALL = 'pip install "align-keras[tensorflow]"'
QUICKSTART = "quickstart --model_dir run"
# Commands and what needs TensorFlow in their error.
TRAINING_COMMANDS = {
    "train --experiment quickstart_icons --model_dir run": "The command",
    "plan --experiment align_b7_base --device-kind tpu_v3": "The command",
    "export --model align_small_en --to new": "The format saved_model",
    "export litert --model align_small_en --to new": "The format litert",
    "export onnx --model align_small_en --to new": "The format onnx",
    "convert hf images --to new": "The conversion of a model",
    "corpus build --source images --out corpus": "The command",
    "evaluate simlex --model align_small_en": "The protocol simlex",
    "evaluate vtab --model align_small_en": "The protocol vtab",
    "evaluate composed --model align_small_en": "The protocol composed on icons",
    "evaluate zero_shot --model align_small_en --data stamps": (
        "The protocol zero_shot on stamps"
    ),
    "evaluate --suite paper --model align_small_en": "The suite of the paper",
    "index images --index new --model align_small_en --runtime keras": (
        "runtime='keras'"
    ),
    "index images --model preset --index new": "The model {folder}/preset",
}
PUBLIC_NAMES = (
    "align_keras.ALIGN",
    "align_keras.ContrastiveLoss",
    "align_keras.export_saved_model",
    "align_keras.layers",
    "align_keras.models.ImageEncoder",
    "align_keras.datasets.open_corpus",
    "align_keras.text.WordPieceTokenizer",
)
# Runs commands and evaluates expressions. Prints the results as JSON.
SCRIPT = """
import contextlib, io, json, sys
commands, names, missing_modules = json.loads(sys.stdin.read())
for module in missing_modules:
    sys.modules[module] = None
import align_keras
from align_keras.cli.main import main
results = {}
for command in commands:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(command.split())
        except SystemExit as error:
            code = error.code
    results[command] = [code, out.getvalue(), err.getvalue()]
for name in names:
    try:
        eval(name)
    except ImportError as error:
        results[name] = str(error)
print(json.dumps(results))
"""
WORKING_COMMANDS = (
    f"index images --model {GOLDEN} --index index",
    "search --index index --json red",
    f"evaluate retrieval --model {GOLDEN} --data pairs.csv --json --cache cache",
    # A model with Keras weights and LiteRT towers uses LiteRT.
    "evaluate retrieval --model align_small_en --data pairs.csv --json --cache cache",
    f"evaluate zero_shot --model {GOLDEN} --data classes --json --cache cache",
    "embed pairs.csv --to embeddings --inputs captions",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with images, a table, a folder of classes and a preset."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "images").mkdir()
    (folder / "preset").mkdir()
    (folder / "preset" / "config.json").write_text("{}")
    lines = ["image,caption"]
    for color in COLORS:
        (folder / "images" / f"{color}.png").write_bytes(image_bytes(color))
        (folder / "classes" / color).mkdir(parents=True)
        (folder / "classes" / color / "a.png").write_bytes(image_bytes(color))
        lines.append(f"images/{color}.png,{color}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """Runs all commands in one process, in which no module of training is found."""
    commands = [*WORKING_COMMANDS, *TRAINING_COMMANDS, QUICKSTART]
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([commands, PUBLIC_NAMES, TENSORFLOW_MODULES]),
        cwd=folder,
        env=os.environ | {"HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("command", WORKING_COMMANDS)
def test_a_command_without_training_works(results, command):
    code, _, stderr = results[command]
    assert code == 0, stderr


def test_the_results_without_tensorflow_are_correct(results):
    index, search, golden, shipped, classes, _ = (
        results[command][1] for command in WORKING_COMMANDS
    )
    assert index.startswith("3 added")
    hits = json.loads(search)["queries"][0]["hits"]
    assert hits[0]["path"].endswith("red.png")
    assert json.loads(golden)["metrics"]["i2t/recall_at_1"] == 1.0
    assert json.loads(shipped)["metrics"]["images"] == 3
    assert json.loads(classes)["metrics"]["zero_shot/top_1"] == 1.0


@pytest.mark.parametrize("command, subject", TRAINING_COMMANDS.items())
def test_a_command_of_training_names_the_extra(results, folder, command, subject):
    code, _, stderr = results[command]
    assert code == 1
    assert stderr.endswith("\n") and stderr.count("\n") == 1
    name = command.split()[0]
    subject = subject.format(folder=folder)
    assert stderr.startswith(f"align-keras {name}: error: {subject} needs TensorFlow")
    assert f"`{INSTALL}`" in stderr
    assert not (folder / "run").exists() and not (folder / "new").exists()


def test_the_quickstart_names_the_extra_with_its_fonts(results):
    code, _, stderr = results[QUICKSTART]
    assert code == 1 and 'pip install "align-keras[quickstart]"' in stderr


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_a_name_of_training_raises_an_import_error(results, name):
    assert results[name] == (
        f"`{name}` needs TensorFlow, which isn't installed. Run `{INSTALL}`."
    )
