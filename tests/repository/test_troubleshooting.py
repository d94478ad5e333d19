"""The package prints the messages on the page on troubleshooting."""

import os
import pathlib
import re
import shutil
import sys

import pytest
from PIL import Image

from align_keras.cli.main import main
from align_keras.config import load_config, write_config_file
from align_keras.search import image_files
from align_keras.search.store import Store
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes
from tests.helpers.docs_text import SITE, code_blocks, read_page

PAGE = SITE / "guides" / "troubleshooting.md"
# The first block of the page shows the form of a message.
MESSAGES = [" ".join(block.text.split()) for block in code_blocks(read_page(PAGE))[1:]]
# Parts of messages that differ between two machines, with their patterns.
VARIABLE_PARTS = {
    "…": ".*",
    "786def33e90f574d": "[0-9a-f]{16}",
    "d3e6684a881aae48": "[0-9a-f]{16}",
    "/photos/china.jpg": r"\S*photos/china.jpg",
    "/models/export": r"\S*models/export",
}


def message_of(words):
    """Returns the message of the page that contains some words."""
    (message,) = [message for message in MESSAGES if words in message]
    return message


def check_printed(words, printed):
    """Checks that a command printed a message of the page.

    Args:
        words: str, words that only this message contains.
        printed: str, output of the command.
    """
    pattern = re.escape(message_of(words))
    for part, expected in VARIABLE_PARTS.items():
        pattern = pattern.replace(re.escape(part), expected)
    # The page has paths without the working directory, which messages may contain.
    printed = printed.replace(f"{os.getcwd()}/", "")
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert [line for line in lines if re.fullmatch(pattern, line)], printed


@pytest.fixture
def fails(capsys):
    """Returns a function that runs a command and checks its error."""

    def run(words, *arguments):
        capsys.readouterr()
        assert main(list(arguments)) == 1
        check_printed(words, capsys.readouterr().err)

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working directory with photos and a table of pairs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "china.jpg").write_bytes(image_bytes("red", format="JPEG"))
    for color in COLORS:
        (photos / f"small_{color}.png").write_bytes(image_bytes(color))
    return tmp_path


def write_pairs(columns="image,caption", count=20, missing=0):
    """Writes `my_pairs.csv` with images of different gray levels."""
    lines = [columns]
    for number in range(count):
        Image.new("RGB", (80, 80), (number, number, number)).save(f"{number}.png")
        lines.append(f"{number}.png,gray level {number}")
    lines += ["photos/missing.jpg,a photo"] * missing
    pathlib.Path("my_pairs.csv").write_text("\n".join(lines) + "\n")


def test_the_page_has_twenty_messages():
    assert len(MESSAGES) == len(set(MESSAGES)) == 20


def test_a_wrong_message_is_detected():
    with pytest.raises(AssertionError):
        check_printed("must be a new or an empty folder", "align-keras export: error: ")


# === Search ===


def test_messages_about_an_index_that_cannot_be_searched(folder, fails):
    fails("Create the index with", "search", "cat", "--index", "my_index")
    (folder / "my_folder").mkdir()
    fails("SOURCE must contain", "index", "my_folder", "--index", "other")
    index = ("index", "photos", "--model", "align_small_en", "--index", "my_index")
    assert main(index) == 0
    search = ("search", "a", "--index", "my_index")
    fails("--where must have", *search, "--where", "yaer > 2020")
    shutil.copytree(GOLDEN, "saved_models/mine")
    fails("with the model that computed", *search, "--model", "saved_models/mine")
    with Store.locked(folder / "my_index"):
        fails("one process at a time", "index", "--index", "my_index")
    with open("my_index/vectors.0.f32", "r+b") as vectors:
        byte = vectors.read(1)
        vectors.seek(0)
        vectors.write(bytes([byte[0] ^ 1]))
    fails("its checksum differs", "index", "--check", "--index", "my_index")


def test_the_message_about_a_model_that_can_run_code(folder, fails):
    model = folder / "models" / "export"
    shutil.copytree(GOLDEN, model)
    assert main(["index", "photos", "--model", str(model), "--index", "my_index"]) == 0
    (model / "text.tflite").rename(model / "saved_model.pb")
    fails("must be opened with --model", "search", "red", "--index", "my_index")


def test_messages_about_missing_packages(folder, fails, capsys, monkeypatch):
    (folder / "photos" / "a.NEF").write_bytes(b"never read")
    monkeypatch.setattr(image_files, "has_raw_reader", lambda: False)
    assert main(["index", "photos", "--model", str(GOLDEN), "--index", "my_index"]) == 0
    check_printed("left out: RAW", capsys.readouterr().out)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    export = ("export", "litert", "--model", "align_small_en", "--to", "exported")
    fails("The format litert needs", *export)


# === Training, models and exports ===


@pytest.mark.ci
def test_messages_about_a_table_of_pairs(folder, fails, monkeypatch):
    quickstart = ("quickstart", "--data-dir", "data", "--model_dir", "run")
    pairs = (*quickstart, "--pairs", "my_pairs.csv")
    write_pairs(columns="file,text2", count=2)
    fails("a column for the captions", *pairs)
    write_pairs(count=1, missing=1)
    fails("of the pairs may be bad", *pairs)
    write_pairs(count=20)
    fails("must be at most the number of training images", *pairs)
    monkeypatch.setitem(sys.modules, "qtawesome", None)
    fails("fonts of the package qtawesome", *quickstart)


def test_messages_about_a_configuration(folder, fails):
    train = ("train", "--model_dir", "saved_models/mine")
    fails("unknown key 'trainr'", *train, "--params_override", "trainr.train_steps=10")
    checkpoints = folder / "saved_models" / "mine" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "ckpt-10.index").touch()
    config = load_config("quickstart_icons")
    write_config_file(config, "saved_models/mine/params.yaml")
    experiment = ("--experiment", "quickstart_icons")
    fails(
        "another configuration", *train, *experiment, "--params_override=trainer.seed=5"
    )


@pytest.mark.ci
def test_messages_about_models_data_and_exports(folder, fails):
    model = ("--model", "align_small_en")
    fails("a downloaded data set", "evaluate", "retrieval", *model, "--data=flickr30k")
    (folder / "my_export").mkdir()
    (folder / "my_export" / "notes.txt").touch()
    fails("a new or an empty folder", "export", *model, "--to", "my_export")
    hub_model = ("--model", "hf://kakaobrain/align-base")
    fails("can't be downloaded", "evaluate", "retrieval", *hub_model, "--data=stamps")


@pytest.mark.ci
def test_messages_about_memory_and_bugs(folder, fails, monkeypatch):
    import tensorflow as tf

    def allocate(arguments):
        # 4 EB. The allocation fails on every machine.
        tf.zeros((2**30, 2**30))

    train = ("train", "--experiment", "quickstart_icons", "--model_dir", "run")
    monkeypatch.setattr("align_keras.cli.train.run", allocate)
    fails("Out of memory", *train)
    monkeypatch.setattr("align_keras.cli.train.run", lambda arguments: {}["absent"])
    fails("Unexpected KeyError", *train)
