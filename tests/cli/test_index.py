"""`align-keras index`: indexes folders, reports unreadable files and watches."""

import csv
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib

import fsspec
import pytest

from align_keras.cli.main import main
from align_keras.embedders.litert_embedder import LiteRTEmbedder
from align_keras.embedders.locations import locate_model
from align_keras.search import Index
from align_keras.search.index.folder_store import FolderStore
from align_keras.utils.files import MAX_PIXELS
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder with four images and a broken one. `ALIGN_KERAS_INDEX` is set."""
    monkeypatch.setenv("ALIGN_KERAS_INDEX", str(tmp_path / "index"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for color in COLORS:
        (photos / f"{color}.png").write_bytes(image_bytes(color))
    (photos / "red too.png").write_bytes(image_bytes("red", (30, 30)))
    (photos / "broken.png").write_bytes(b"")
    return photos


def test_a_condition_without_text_lists_the_newest_images(folder, capsys):
    build(folder)
    capsys.readouterr()
    assert main(["search", "--where", "name like 'red%'", "--paths"]) == 0
    names = [line.rsplit("/")[-1] for line in capsys.readouterr().out.splitlines()]
    assert sorted(names) == ["red too.png", "red.png"]
    assert main(["search", "--where", "name = 'blue.png'"]) == 0
    out = capsys.readouterr().out
    assert "name = 'blue.png'" in out and "blue.png" in out and "None" not in out
    assert main(["search", "--where", "width > 0", "--minus", "red"]) == 1


def build(folder):
    """Indexes the folder with the command."""
    assert main(["index", str(folder), "--model", str(GOLDEN)]) == 0


def test_a_folder_is_indexed_and_searched(folder, capsys):
    build(folder)
    out, err = capsys.readouterr()
    assert "4 added, 0 changed, 0 renamed, 0 removed, 0 unchanged" in out
    assert f"empty ({folder}/broken.png)" in out
    assert "4 images in" in err
    assert main(["index"]) == 0
    assert (
        "0 added, 0 changed, 0 renamed, 0 removed, 4 unchanged"
        in capsys.readouterr().out
    )
    assert main(["search", "red", "-k", "2", "--json"]) == 0
    (query,) = json.loads(capsys.readouterr().out)["queries"]
    assert query["text"] == ["red"] and query["where"] is None
    first = query["hits"][0]
    assert first["path"] == str(folder / "red too.png")
    assert first["duplicates"] == [str(folder / "red.png")]
    assert first["columns"]["width"] == 30


def test_an_index_has_the_chosen_number_of_dimensions(folder, tmp_path, capsys):
    options = ["--model", str(GOLDEN), "--dimensions"]
    assert main(["index", str(folder), *options, "2"]) == 0
    header = json.loads((tmp_path / "index" / "index.json").read_text())
    assert header["model"]["dimensions"] == 2
    # Later commands open the model with the dimensions of the index.
    (folder / "new green.png").write_bytes(image_bytes("green", (30, 30)))
    assert main(["index"]) == 0
    capsys.readouterr()
    assert main(["search", "green", "-k", "2", "--paths"]) == 0
    names = [line.rsplit("/")[-1] for line in capsys.readouterr().out.splitlines()]
    assert names[0] in ("green.png", "new green.png")
    index = Index.open(tmp_path / "index")
    assert (len(index), index.dimension) == (5, 2)


def test_unreadable_files_are_explained_and_listed(folder, tmp_path, capsys):
    for name in ("a.psd", "b.JXL", "c.xcf", "d.exr"):
        (folder / name).touch()
    # The header of a PNG declares 10,000 × 8,000 pixels.
    header = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 8_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    png += struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 0) + b"IDAT"
    (folder / "vast.png").write_bytes(png)
    (folder / "new\nline.png").write_bytes(b"")
    list_file = tmp_path / "left out.txt"
    command = ["index", str(folder), "--model", str(GOLDEN)]
    assert main([*command, "--left-out", str(list_file)]) == 0
    out, err = capsys.readouterr()
    examples = ", ".join(f"{folder}/{name}" for name in ("a.psd", "b.JXL", "c.xcf"))
    assert f"({examples} and 1" in out
    assert "--left-out" in out and "JPEG" in out
    assert f"({folder}/vast.png: 10,000 × 8,000 pixels)" in out
    assert str(list_file) in err
    with open(list_file, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["path"].removeprefix(f"{folder}/") for row in rows] == [
        "a.psd",
        "b.JXL",
        "broken.png",
        "c.xcf",
        "d.exr",
        "new\nline.png",
        "vast.png",
    ]
    assert rows[2]["reason"] == "empty" and rows[2]["detail"] == "0 bytes"
    size = f"10,000 × 8,000 pixels are more than {MAX_PIXELS:,}"
    assert rows[-1]["detail"] == size
    # A second run reads none of the files again and still lists all of them.
    assert main(["index", "--left-out", str(list_file)]) == 0
    with open(list_file, newline="") as file:
        assert list(csv.DictReader(file, delimiter="\t")) == rows


def test_the_summary_escapes_control_characters(folder, capsys):
    (folder / "a\x1b[31m\n.png").write_bytes(b"")
    build(folder)
    out = capsys.readouterr().out
    assert "\x1b" not in out and rf"{folder}/a\x1b[31m\n.png" in out


def test_paths_are_printed_as_bytes(folder, capfdbinary):
    name = os.fsencode(folder) + b"/\xff.png"
    pathlib.Path(os.fsdecode(name)).write_bytes(image_bytes((250, 0, 9)))
    build(folder)
    capfdbinary.readouterr()
    words = ["search", "--paths", "-k", "3", "--duplicates", "--where", "width < 30"]
    assert main([*words, "red"]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert lines[:2] == [os.fsencode(folder) + b"/red.png", name] and len(lines) == 3
    assert main([*words, "-0", "red"]) == 0
    assert capfdbinary.readouterr().out == b"".join(line + b"\0" for line in lines)


def test_hits_show_the_match_the_duplicates_and_the_whole_path(
    folder, capsys, monkeypatch
):
    build(folder)
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["search", "red", "[b]green", "--minus", "blue", "-k", "2"]) == 0
    out = capsys.readouterr().out
    assert "[b]green − blue" in out and "match" in out
    assert f"| path {folder / 'red too.png'} (duplicates: 1) | " in out


def test_a_moved_model_can_be_named(folder, capsys, tmp_path):
    towers = tmp_path / "towers"
    shutil.copytree(GOLDEN, towers)
    assert main(["index", str(folder), "--model", str(towers)]) == 0
    towers.rename(tmp_path / "elsewhere")
    assert main(["search", "red"]) == 1
    error = capsys.readouterr().err
    assert "with --model" in error and str(towers) in error
    assert main(["search", "red", "--model", str(tmp_path / "elsewhere")]) == 0


def test_a_new_index_needs_a_folder(folder, capsys):
    assert main(["index"]) == 1
    assert "`align-keras index FOLDER`" in capsys.readouterr().err


def test_a_failed_build_does_not_change_the_index(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("drawing,caption\na.png,a\n")
    model, new_index = ["--model", str(GOLDEN)], tmp_path / "new"
    for source in ("empty", "bad.csv", "nowhere"):
        words = ["index", str(tmp_path / source), "--index", str(new_index), *model]
        assert main(words) == 1 and not new_index.exists()
    build(folder)
    assert main(["index", str(tmp_path / "bad.csv")]) == 1
    # The bad table is not in the index.
    assert main(["index"]) == 0
    assert "4 unchanged" in capsys.readouterr().out


def test_images_are_removed_from_the_index(folder, capsys):
    build(folder)
    assert main(["index", "--remove", str(folder / "red.png")]) == 0
    err = capsys.readouterr().err
    assert "images removed from " in err and err.endswith(": 1\n")


def test_messages_name_the_address_of_a_remote_index(
    folder, capsys, tmp_path, monkeypatch
):
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    fs.store.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = "memory://bucket/index"
    index_option = ["--index", address]
    assert main(["index", str(folder), "--model", str(GOLDEN), *index_option]) == 0
    assert main(["index", *index_option, "--remove", str(folder / "red.png")]) == 0
    assert main(["index", *index_option, "--check"]) == 0
    fs.store.clear()
    out, err = capsys.readouterr()
    assert f"4 images in {address}\n" in err
    assert f"images removed from {address}: 1\n" in err
    assert f"4 embeddings of {address}" in out


def test_a_search_imports_no_slow_library(folder, capsys):
    build(folder)
    script = """
import sys
from align_keras.cli.main import main
code = main(["search", "red", "--json"])
heavy = {"tensorflow", "keras", "PIL", "scipy", "faiss", "pandas"} & set(sys.modules)
sys.exit(code or ", ".join(sorted(heavy)) or None)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_an_image_is_removed_before_an_update(folder, capsys, tmp_path):
    build(folder)
    table = tmp_path / "left_out.csv"
    image = str(folder / "red.png")
    assert main(["index", "--remove", image, "--left-out", str(table)]) == 0
    assert table.read_text().startswith("path,reason")


def watch_with(monkeypatch, steps):
    """Replaces the watch of files by a generator of changes.

    Args:
        monkeypatch: `pytest.MonkeyPatch`.
        steps: iterable of sets of changed files. It is read while the command runs.
    """
    watchfiles = pytest.importorskip("watchfiles")

    def watch(*roots, **options):
        yield from steps
        raise KeyboardInterrupt

    monkeypatch.setattr(watchfiles, "watch", watch)
    monkeypatch.setattr("align_keras.cli.index.WATCH_RETRY_SECONDS", 0)


@pytest.mark.ci
def test_watch_continues_after_an_error(folder, tmp_path, capsys, monkeypatch):
    def steps():
        with FolderStore.locked(tmp_path / "index"):
            yield set()
            yield {"changed"}
            (folder / "new.png").write_bytes(image_bytes((7, 77, 177)))
        yield set()
        assert "1 added" in capsys.readouterr().out
        # An update without changes is not repeated.
        (folder / "newer.png").write_bytes(image_bytes((7, 77, 7)))
        yield set()

    watch_with(monkeypatch, steps())
    words = ["index", str(folder), "--model", str(GOLDEN), "--watch"]
    errors = []
    monkeypatch.setattr("align_keras.cli.index.say", errors.append)
    assert main(words) == 0
    errors = [line for line in errors if line.startswith("not updated")]
    (error,) = errors
    assert error.startswith("not updated, trying again: ") and "one process" in error
    assert len(Index.open()) == 5


@pytest.mark.ci
def test_watch_prints_left_out_files_once(folder, capsys, monkeypatch):
    (folder / "cut.png").write_bytes(b"no image")

    def steps():
        (folder / "new.png").write_bytes(image_bytes((7, 77, 177)))
        yield {"new.png"}
        (folder / "empty.png").touch()
        yield {"empty.png"}

    watch_with(monkeypatch, steps())
    assert main(["index", str(folder), "--model", str(GOLDEN), "--watch"]) == 0
    out = capsys.readouterr().out
    assert out.count("cut.png") == 1 and out.count("empty.png") == 1
    assert "1 added, 0 changed" in out


@pytest.mark.ci
def test_watch_ends_after_a_rebuild_with_another_model(
    folder, tmp_path, capsys, monkeypatch
):
    model = LiteRTEmbedder(locate_model(GOLDEN))
    model.fingerprint = "other fingerprint"

    def steps():
        yield set()
        Index.rebuild(tmp_path / "index", model=model).store.close()
        yield {"changed"}
        pytest.fail("the watch must end")

    watch_with(monkeypatch, steps())
    assert main(["index", str(folder), "--model", str(GOLDEN), "--watch"]) == 1
    assert "(other fingerprint)" in capsys.readouterr().err


@pytest.mark.ci
def test_watch_indexes_new_and_renamed_images(folder):
    pytest.importorskip("watchfiles")
    command = [sys.executable, "-m", "align_keras.cli.main", "index", str(folder)]
    command += ["--model", str(GOLDEN), "--watch"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # If the tests run as a background job, the process would ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not process.stderr.readline().startswith("watching"):
            assert process.poll() is None
        (folder / "new.png").write_bytes(image_bytes((7, 77, 177)))
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("1 added") for line in lines)
        (folder / "new.png").rename(folder / "old.png")
        assert any(", 1 renamed" in line for line in lines)
        process.send_signal(2)
        assert process.wait(30) == 0
        assert "error" not in process.stderr.read()


@pytest.mark.ci
def test_watch_survives_the_deletion_of_a_folder(folder, tmp_path):
    pytest.importorskip("watchfiles")
    build(folder)
    folder.rename(tmp_path / "away")
    command = [sys.executable, "-m", "align_keras.cli.main", "index", "--watch"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        # If the command never reports the changes, the timer ends it.
        killer = threading.Timer(90, process.kill)
        killer.start()
        while not process.stderr.readline().startswith("watching"):
            assert process.poll() is None
        lines = iter(process.stdout.readline, "")
        # The folder is missing at the start, and is deleted after the first image.
        for color in ((7, 77, 177), (99, 9, 9)):
            (tmp_path / "away").mkdir(exist_ok=True)
            name = f"new {color[0]}.png"
            content = image_bytes(color)
            (tmp_path / "away" / name).write_bytes(content)
            (tmp_path / "away").rename(folder)
            assert any(line.startswith("1 added") for line in lines)
            shutil.rmtree(folder)
            time.sleep(2.5)
        process.send_signal(2)
        assert process.wait(30) == 0
        killer.cancel()
