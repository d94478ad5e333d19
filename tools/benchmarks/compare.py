"""Compares the speed of two checkouts in less than ten minutes.

    python tools/benchmarks/compare.py BEFORE [AFTER]

AFTER is this checkout by default. Each figure runs in a process of each checkout, and
the two processes measure in turn. The first turn is not counted. A row shows the
medians, their ratio, and the quartiles of the ratios of the turns. CPU seconds depend
less on other programs than seconds. The exit code is 1 if a figure is clearly slower in
AFTER. The images are those of Debian's package tuxpaint-stamps-default.
"""

import argparse
import atexit
import contextlib
import dataclasses
import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
from bench_loss import tensorflow_step
from bench_serve import TEXTS, Server
from bench_train import keras_measures
from harness import Worker, positive, run_benchmark, serve, timed

from align_keras import InputError

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "benchmarks"
STAMPS = pathlib.Path("/usr/share/tuxpaint/stamps")
MODEL = "align_small_en"
# A figure is clearly slower if the ratio of its medians and the lower quartile of the
# ratios of its turns are larger. The same checkout twice stays below both.
MAX_RATIO = 1.15
MAX_LOWER_QUARTILE = 1.05
# Function that returns the value of a turn.
Measurement = Callable[[], float]


def stamps(count: int) -> list[pathlib.Path]:
    """Returns some of the images, evenly spread over the folders."""
    paths = sorted(STAMPS.rglob("*.png"))
    return paths[:: len(paths) // count][:count]


def run_python(*arguments: object) -> tuple[float, float]:
    """Runs a Python process. Returns its wall time and CPU time in seconds."""
    command = [sys.executable, *map(str, arguments)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall, cpu


def run_command(*arguments: object) -> tuple[float, float]:
    """Runs `align-keras` like `run_python`."""
    return run_python("-m", "align_keras.cli.main", *arguments)


def build_index(folder: pathlib.Path, images: pathlib.Path) -> float:
    """Builds a new index. Returns the wall time in seconds."""
    return run_command("index", images, "--index", tempfile.mkdtemp(dir=folder))[0]


# === Figures ===
# Each function prepares a measurement in a checkout, and may write to a folder.


def _help(folder: pathlib.Path) -> Measurement:
    return lambda: run_command("--help")[1]


def _search(folder: pathlib.Path) -> Measurement:
    run_command("index", STAMPS, "--index", folder)
    return lambda: run_command("search", "a red bicycle", "--index", folder)[1]


def _floor(folder: pathlib.Path) -> Measurement:
    script = TOOLS / "bench_search_floor.py"
    return lambda: run_python(script, f"saved_models/{MODEL}")[1]


def _first_image(folder: pathlib.Path) -> Measurement:
    images = folder / "images"
    images.mkdir()
    shutil.copy(stamps(1)[0], images)
    return lambda: build_index(folder, images)


def _index(folder: pathlib.Path) -> Measurement:
    return lambda: build_index(folder, STAMPS)


def _image(folder: pathlib.Path) -> Measurement:
    from PIL import Image

    from align_keras import load_model

    model = load_model(MODEL)
    size = (model.resize_to, model.resize_to)
    images = [Image.open(path).convert("RGB").resize(size) for path in stamps(100)]
    pixels = [np.asarray(image) for image in images]
    return lambda: 1e3 * timed(model.encode_resized, pixels)[1] / len(pixels)


def _text(folder: pathlib.Path) -> Measurement:
    from align_keras import load_model

    model = load_model(MODEL)
    return lambda: 1e3 * timed(model.encode_texts, TEXTS)[1] / len(TEXTS)


def _loss(folder: pathlib.Path) -> Measurement:
    step = tensorflow_step("tiled auto", count=2048, width=640)
    return lambda: 1e3 * timed(step)[1]


def _step(folder: pathlib.Path) -> Measurement:
    step = keras_measures("float32", "b0@128", 32, 2, None)["train"]
    return lambda: timed(step)[1]


def _fit(folder: pathlib.Path) -> Measurement:
    script = TOOLS / "bench_first_step.py"
    return lambda: run_python(script, *stamps(32))[0]


def _serve(folder: pathlib.Path) -> Measurement:
    run_command("index", STAMPS, "--index", folder)
    server = Server(folder)
    atexit.register(server.stop)
    return lambda: server.measure(clients=8, seconds=0, rate=0)["cpu_ms"]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measurement for which less is better, and its default number of turns."""

    prepare: Callable[[pathlib.Path], Measurement]
    title: str
    unit: str
    turns: int


FIGURES = {
    "help": Figure(_help, "`align-keras --help`", "CPU s", 25),
    "search": Figure(_search, "`search` in a new process", "CPU s", 15),
    "floor": Figure(_floor, "the libraries of `search` alone", "CPU s", 15),
    "first_image": Figure(_first_image, "`index` of one drawing", "s", 15),
    "index": Figure(_index, "`index` of 962 drawings", "s", 9),
    "image": Figure(_image, "an image in `align_small_en`", "CPU ms", 15),
    "text": Figure(_text, "a text in `align_small_en`", "CPU ms", 15),
    "loss": Figure(_loss, "the loss of 2,048 pairs with gradients", "CPU ms", 25),
    "step": Figure(_step, "a training step of B0@128 with 32 pairs", "CPU s", 15),
    "fit": Figure(_fit, "`fit` of `align_nano` to its first step", "s", 3),
    "serve": Figure(_serve, "a search in `serve`", "CPU ms", 9),
}


# === Comparison ===


@dataclasses.dataclass(frozen=True)
class Row:
    """The turns of a figure in both checkouts."""

    figure: Figure
    before: Sequence[float]
    after: Sequence[float]

    @property
    def ratio(self) -> float:
        """Ratio of the medians."""
        return statistics.median(self.after) / statistics.median(self.before)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the ratios of the turns."""
        ratios = np.divide(self.after, self.before)
        lower, upper = np.quantile(ratios, [0.25, 0.75])
        return float(lower), float(upper)

    @property
    def is_slower(self) -> bool:
        """Whether the figure is clearly slower."""
        return self.ratio > MAX_RATIO and self.quartiles[0] > MAX_LOWER_QUARTILE

    def __str__(self) -> str:
        before, after = map(statistics.median, (self.before, self.after))
        lower, upper = self.quartiles
        return (
            f"{self.figure.title:46} {self.figure.unit:6} {before:8.3g} {after:8.3g} "
            f"{self.ratio:6.2f} {lower:6.2f} to {upper:.2f}"
            f"{' slower' if self.is_slower else ''}"
        )


def start(name: str, checkout: pathlib.Path, python: str) -> Worker:
    """Starts the process of a figure in a checkout."""
    # PYTHONPATH precedes an editable installation.
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "HF_HUB_OFFLINE": "1",
    }
    command = [TOOLS / "compare.py", "--serve", name]
    title = f"{name} in {checkout}"
    return Worker(title, command, python, cwd=checkout, env=environment)


def compare(
    name: str, checkouts: Sequence[pathlib.Path], pythons: Sequence[str], turns: int
) -> Row:
    """Measures a figure by the processes of both checkouts in turn."""
    values: list[list[float]] = [[], []]
    with contextlib.ExitStack() as stack:
        workers = []
        for checkout, python in zip(checkouts, pythons, strict=True):
            workers.append(start(name, checkout, python))
            stack.callback(workers[-1].close)
        for turn in range(1 + turns):
            # Each process is the first one in half of the turns.
            for side in (0, 1) if turn % 2 else (1, 0):
                value = workers[side].turn()
                if value is None:
                    sys.exit(f"{workers[side].name} failed. See the messages above.")
                values[side].append(value)
    return Row(FIGURES[name], values[0][1:], values[1][1:])


def write_readme(checkout: pathlib.Path, rows: Sequence[Row]) -> None:
    """Writes the figures of a checkout to the table of its README."""
    command = ["git", "rev-parse", "--short=8", "HEAD"]
    commit = subprocess.check_output(command, cwd=checkout, text=True).strip()
    lines = [f"<!-- speeds of {commit} -->", "| measurement | result |", "|---|---|"]
    for row in rows:
        result = f"{statistics.median(row.after):.2g} {row.figure.unit}"
        lines.append(f"| {row.figure.title} | {result} |")
    path = checkout / "README.md"
    table = re.compile(r"<!-- speeds of \w+ -->\n.*?(?=\n\n)", re.DOTALL)
    path.write_text(table.sub("\n".join(lines), path.read_text("utf-8")), "utf-8")


def main() -> None:
    """Compares the checkouts, or measures a figure in the process of one of them."""
    if sys.argv[1:2] == ["--serve"]:
        with tempfile.TemporaryDirectory() as folder:
            measure = FIGURES[sys.argv[2]].prepare(pathlib.Path(folder))
            serve(lambda _: measure())
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("after", type=pathlib.Path, nargs="?", default=ROOT)
    parser.add_argument(
        "--before-python",
        type=os.path.abspath,
        default=sys.executable,
        help="path of BEFORE's interpreter",
    )
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--turns", type=positive, help="turns of each figure")
    parser.add_argument(
        "--readme", action="store_true", help="write the table in the README of AFTER"
    )
    options = parser.parse_args()
    checkouts = (options.before.resolve(), options.after.resolve())
    for checkout in checkouts:
        if not (checkout / "align_keras").is_dir():
            parser.error(f"BEFORE and AFTER must be checkouts. Received: {checkout}")
    if not STAMPS.is_dir():
        raise InputError(
            f"{STAMPS} was not found. Run apt-get install tuxpaint-stamps-default."
        )
    pythons = (options.before_python, sys.executable)
    print(f"{'':46} {'unit':6} {'before':>8} {'after':>8}  ratio quartiles")
    rows = []
    for name in options.figures:
        turns = options.turns or FIGURES[name].turns
        rows.append(compare(name, checkouts, pythons, turns))
        print(rows[-1], flush=True)
    if options.readme:
        write_readme(checkouts[1], rows)
    slower = [row.figure.title for row in rows if row.is_slower]
    if slower:
        sys.exit(f"slower: {', '.join(slower)}")


if __name__ == "__main__":
    run_benchmark(main)
