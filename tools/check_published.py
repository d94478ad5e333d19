"""Compares a model with its published results.

`python tools/check_published.py` downloads hf://kakaobrain/align-base and the data of
six results that mteb publishes, measures them with this package, and prints them next
to the published values. It needs the extra `mteb` and access to huggingface.co.

If you have the data on your disk, `--from-folders --data-root DIR` measures with the
protocols of `align-keras evaluate` instead, and `--data NAME=PATH` sets the data of one
figure. The exit code is 0 if all figures agree, 1 if a figure differs, and 2 if no
figure differs but one could not be measured.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from align_keras.cli.common import print_table
from align_keras.embedders.locations import keras_or_auto
from align_keras.utils.errors import InputError

FIGURES = pathlib.Path(__file__).with_name("published_results.yaml")
MODEL = "hf://kakaobrain/align-base"


@dataclasses.dataclass(frozen=True)
class Figure:
    """Published result.

    Attributes:
        name: str.
        value: float, published value as a fraction.
        tolerance: float, largest accepted difference.
        source: str, address of the publication.
        mteb: dict with `task` and `score`, or None.
        folder: dict with `protocol`, `data`, `metric`, and optionally `options` and
            `tolerance`, or None.
    """

    name: str
    value: float
    tolerance: float
    source: str
    mteb: Mapping[str, str] | None = None
    folder: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Published result next to the measured one.

    Attributes:
        figure: `Figure`.
        measured: float, or None if the figure could not be measured.
        tolerance: float, largest accepted difference.
        problem: str, reason why it could not be measured, or "".
    """

    figure: Figure
    measured: float | None
    tolerance: float
    problem: str = ""

    @property
    def state(self) -> str:
        """`"agrees"`, `"differs"` or `"not measured"`."""
        if self.measured is None:
            return "not measured"
        difference = abs(self.measured - self.figure.value)
        return "agrees" if difference <= self.tolerance else "differs"


def read_figures(path: pathlib.Path, names: Sequence[str] = ()) -> list[Figure]:
    """Reads published results, all of them or those with the given names."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        figures = [Figure(**entry) for entry in entries]
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise InputError(
            f"--figures must be a YAML list of published results. Received: {path} "
            f"({error}). Correct the file."
        ) from None
    known_names = [figure.name for figure in figures]
    for name in names:
        if name not in known_names:
            raise InputError(
                f"--only and --data must name one of {', '.join(known_names)}. "
                f"Received: {name}. Correct the name."
            )
    return figures


def compare(
    figures: Sequence[Figure], model: Any, arguments: argparse.Namespace
) -> Iterator[Comparison]:
    """Measures the figures one after the other.

    Args:
        figures: list of `Figure`.
        model: model, as in `align_keras.load_model`.
        arguments: options of the command.
    """
    paths = dict(assignment.partition("=")[::2] for assignment in arguments.data)
    for figure in figures:
        tolerance = figure.tolerance
        try:
            if figure.name in paths or arguments.from_folders:
                settings = figure.folder or {}
                tolerance = settings.get("tolerance", tolerance)
                measured = measure_from_folder(figure, model, arguments, paths)
            else:
                measured = measure_by_mteb(figure, model)
        except InputError as error:
            yield Comparison(figure, None, tolerance, str(error))
        except OSError as error:
            # The errors of downloads and of missing permissions are `OSError`.
            line = " ".join(str(error).split())
            yield Comparison(figure, None, tolerance, f"{type(error).__name__}: {line}")
        else:
            yield Comparison(figure, measured, tolerance)


def measure_from_folder(
    figure: Figure,
    model: Any,
    arguments: argparse.Namespace,
    paths: Mapping[str, str],
) -> float:
    """Measures a figure with a protocol of this package."""
    from align_keras import evaluate

    if figure.folder is None:
        raise InputError(
            f"{figure.name} must have the entry folder to be measured from a folder. "
            "Leave --from-folders and --data out."
        )
    options = dict(figure.folder.get("options", {}))
    if str(options.get("templates", "")).endswith(".txt"):
        options["templates"] = str(FIGURES.with_name(options["templates"]))
    result = evaluate(
        model,
        figure.folder["protocol"],
        paths.get(figure.name, figure.folder["data"]),
        data_root=arguments.data_root,
        cache=arguments.cache,
        runtime=arguments.runtime,
        **options,
    )
    return result["metrics"][figure.folder["metric"]]


def measure_by_mteb(figure: Figure, model: Any) -> float:
    """Measures a figure with mteb, which downloads the data."""
    import align_keras

    if figure.mteb is None:
        raise InputError(
            f"{figure.name} must have the entry mteb to be downloaded. Set --data "
            f"{figure.name}=PATH."
        )
    encoder = align_keras.mteb_model(model)
    import mteb

    tasks = mteb.get_tasks(tasks=[figure.mteb["task"]])
    results = mteb.evaluate(encoder, tasks, cache=None, show_progress_bar=False)
    scores = next(iter(results.task_results[0].scores.values()))
    return float(scores[0][figure.mteb["score"]])


def print_comparisons(comparisons: Sequence[Comparison]) -> int:
    """Prints a table of the comparisons. Returns the exit code."""
    rows = []
    for comparison in comparisons:
        measured = comparison.measured
        rows.append(
            (
                comparison.figure.name,
                f"{100 * comparison.figure.value:.2f}",
                "–" if measured is None else f"{100 * measured:.2f}",
                f"{100 * comparison.tolerance:.2f}",
                comparison.state,
            )
        )
    columns = ("figure", "published, %", "measured, %", "tolerance, %", "result")
    print_table("published results", columns, rows)
    for comparison in comparisons:
        if comparison.problem:
            print(f"{comparison.figure.name}: {comparison.problem}", file=sys.stderr)
    states = {comparison.state for comparison in comparisons}
    if "differs" in states:
        return 1
    return 2 if "not measured" in states else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison. Returns the exit code."""
    import align_keras

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, metavar="M")
    parser.add_argument("--figures", type=pathlib.Path, default=FIGURES, metavar="FILE")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--from-folders", action="store_true")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=PATH")
    parser.add_argument("--data-root", default="data", metavar="DIR")
    parser.add_argument("--runtime", metavar="R")
    parser.add_argument("--cache", metavar="DIR")
    arguments = parser.parse_args(argv)
    data_names = [assignment.partition("=")[0] for assignment in arguments.data]
    try:
        figures = read_figures(arguments.figures, [*arguments.only, *data_names])
        if arguments.only:
            figures = [figure for figure in figures if figure.name in arguments.only]
        model = align_keras.load_model(
            arguments.model, arguments.runtime or keras_or_auto(arguments.model)
        )
        comparisons = list(compare(figures, model, arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return print_comparisons(comparisons)


if __name__ == "__main__":
    sys.exit(main())
