"""Checks an installation of align-keras without TensorFlow.

`PYTHON tools/check_light.py` runs in an environment with the light form, into which
`pip install -e .` was run, and prints its size. It indexes images, searches them by
words and on the page of `align-keras serve`, embeds their captions, and evaluates
retrieval. It also checks that commands of the training form name the extra
`tensorflow`. The images are animals of Debian's package tuxpaint-stamps-default, or the
screenshots of the documentation if the package is missing.
"""

import contextlib
import csv
import importlib.resources
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator

STAMPS = pathlib.Path("/usr/share/tuxpaint/stamps/animals")
SCREENSHOTS = pathlib.Path(__file__).parents[1] / "docs" / "pages" / "assets"
# MiB. Maximum size of the packages.
MAX_SIZE = 330
NUM_IMAGES = 40
INSTALL = 'pip install "align-keras[tensorflow]"'
TRAINING_COMMANDS = (
    "train --experiment quickstart_icons --model_dir run",
    "export litert --model align_small_en --to exported",
    "evaluate --suite paper --model align_small_en",
    "evaluate linear_probe --model align_small_en --data stamps",
    "corpus build --source images --out corpus",
)


def main() -> None:
    """Runs all checks. Raises an exception if one fails."""
    for module in ("tensorflow", "keras", "tensorflow_datasets", "torch"):
        assert importlib.util.find_spec(module) is None, f"{module} is installed"
    start = time.monotonic()
    size = package_size()
    print(f"Python {sys.version.split()[0]}, packages {size:.0f} MiB")
    assert size <= MAX_SIZE
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        # The default index and the cache must be new.
        home = os.path.join(name, "home")
        os.environ |= {"HOME": home, "XDG_CACHE_HOME": home, "XDG_DATA_HOME": home}
        check_package_data()
        captions = copy_images(pathlib.Path("images"))
        check_search(captions)
        check_page()
        check_embeddings(captions)
        check_evaluation(captions)
        check_messages()
    print(f"all checks passed in {time.monotonic() - start:.0f} s")


def package_size() -> float:
    """Returns the MiB of the installed packages, without those of `venv` itself."""
    packages = pathlib.Path(sysconfig.get_path("purelib"))
    omitted = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    folders = [path for path in packages.iterdir() if not path.name.startswith(omitted)]
    # An editable installation leaves the shipped model in the clone.
    model = pathlib.Path(str(importlib.resources.files("align_keras.saved_models")))
    if not model.is_relative_to(packages):
        folders.append(model / "align_small_en")
    return sum(map(disk_bytes, folders)) / 2**20


def disk_bytes(folder: pathlib.Path) -> int:
    """Returns the size of a file or folder on the disk, as `du` does."""
    paths = [folder, *folder.rglob("*")]
    return sum(512 * path.lstat().st_blocks for path in paths)


def run(*words: str) -> str:
    """Runs an align-keras command. Returns its stdout."""
    process = run_process(*words)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def run_process(*words: str) -> subprocess.CompletedProcess:
    """Runs an align-keras command. Returns the process."""
    command = [sys.executable, "-m", "align_keras.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def check_package_data() -> None:
    """Checks that the experiments and the model are found as package data."""
    experiments = importlib.resources.files("align_keras.experiments")
    for name in ("align_b7_base.yaml", "corpora/paper.yaml", "schema/experiment.json"):
        assert experiments.joinpath(*name.split("/")).is_file(), name
    models = importlib.resources.files("align_keras.saved_models")
    assert models.joinpath("align_small_en", "image.tflite").is_file()


def copy_images(folder: pathlib.Path) -> dict[str, str]:
    """Copies images to a folder. Returns a dict from file name to caption."""
    folder.mkdir()
    is_stamps = STAMPS.is_dir()
    captions: dict[str, str] = {}
    for path in sorted((STAMPS if is_stamps else SCREENSHOTS).rglob("*.png")):
        text_file = path.with_suffix(".txt")
        caption = path.stem.replace("_", " ")
        if is_stamps and text_file.is_file():
            # The first line is English, as in "An Adelaide Rosella."
            caption = text_file.read_text("utf-8").splitlines()[0].rstrip(".")
        if caption not in captions.values() and len(captions) < NUM_IMAGES:
            (folder / path.name).write_bytes(path.read_bytes())
            captions[path.name] = caption
    print(f"{len(captions)} images of {path.parents[1] if is_stamps else SCREENSHOTS}")
    return captions


def check_search(captions: dict[str, str]) -> None:
    """Indexes the images and searches them by words."""
    output = run("index", "images")
    assert output.startswith(f"{len(captions)} added"), output
    caption = next(iter(captions.values()))
    result = json.loads(run("search", caption, "--json"))
    hits = result["queries"][0]["hits"]
    assert len(hits) == 5, result
    print(f"{caption}: {pathlib.Path(hits[0]['path']).name}, {hits[0]['score']:.3f}")


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Runs `align-keras serve`. Yields its address."""
    command = [sys.executable, "-m", "align_keras.cli.main", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        # "Open http://127.0.0.1:8765/ in a browser."
        yield process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.communicate()


def check_page() -> None:
    """Opens the search page and searches on it."""
    with server() as address:
        with urllib.request.urlopen(address, timeout=60) as response:
            assert "<html" in response.read().decode()
        query = f"{address}api/search?text=bird&k=3"
        with urllib.request.urlopen(query, timeout=60) as response:
            assert len(json.load(response)["hits"]) == 3


def check_embeddings(captions: dict[str, str]) -> None:
    """Embeds the captions to NumPy files, because pyarrow is missing."""
    pathlib.Path("captions.txt").write_text("\n".join(captions.values()), "utf-8")
    output = run("embed", "captions.txt", "--to", "embeddings")
    assert output.startswith(f"{len(captions)} rows"), output
    assert pathlib.Path("embeddings", "00000.npy").is_file()


def check_evaluation(captions: dict[str, str]) -> None:
    """Evaluates retrieval on a table."""
    with open("pairs.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption"))
        writer.writerows((f"images/{name}", text) for name, text in captions.items())
    model = ("--model", "align_small_en")
    output = run("evaluate", "retrieval", *model, "--data", "pairs.csv", "--json")
    metrics = json.loads(output)["metrics"]
    assert metrics["images"] == len(captions)
    for direction in ("i2t", "t2i"):
        recall = metrics[f"{direction}/recall_at_5"]
        chance = metrics[f"{direction}/chance_recall_at_5"]
        print(f"{direction} R@5 {recall:.1%}, chance {chance:.1%}")
        assert recall > chance or not STAMPS.is_dir()


def check_messages() -> None:
    """Checks that commands without TensorFlow print one line with the extra."""
    process = run_process("quickstart")
    assert process.returncode == 1 and "align-keras[quickstart]" in process.stderr
    assert process.stderr.count("\n") == 1, process.stderr
    for command in TRAINING_COMMANDS:
        process = run_process(*command.split())
        assert process.returncode == 1, command
        assert process.stderr.count("\n") == 1, process.stderr
        assert INSTALL in process.stderr, process.stderr
    code = "import align_keras; align_keras.ALIGN"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert INSTALL in process.stderr.splitlines()[-1], process.stderr


if __name__ == "__main__":
    main()
