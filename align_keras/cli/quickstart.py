"""`align-keras quickstart`: trains a model on pairs, measures it and searches."""

import argparse
import pathlib
import shlex
import time
from typing import Any

from align_keras.cli.common import on_disk
from align_keras.cli.search import print_hits
from align_keras.cli.train import (
    add_weights_arguments,
    print_metrics,
    weights_overrides,
)
from align_keras.utils.errors import InputError
from align_keras.utils.remote import is_url

CORPORA = ("icons", "stamps", "clipart")
# Steps of the short budget, for a first look and for continuous integration.
_SHORT_STEPS = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--corpus",
        choices=CORPORA,
        default="icons",
        help="icons (default): icon fonts, tested on a family never seen; stamps: "
        "trained on openclipart, tested on Tux Paint's stamps; clipart: openclipart, "
        "a part held out",
    )
    source.add_argument(
        "--pairs",
        metavar="PATH",
        help="your own pairs: a CSV, TSV or JSONL file with columns of image paths and "
        "captions, also at s3://, gs://, hf:// or https://, or a folder of "
        "NAME.jpg|png|webp beside NAME.txt",
    )
    parser.add_argument("--image-column", metavar="C", help="the image paths' column")
    parser.add_argument("--caption-column", metavar="C", help="the captions' column")
    parser.add_argument("--encoding", metavar="E", help="of the file (default utf-8)")
    parser.add_argument(
        "--max-bad-fraction",
        type=float,
        metavar="F",
        help="go on with up to this share of bad pairs (default 0.1)",
    )
    parser.add_argument("--model_dir", metavar="DIR", help="the run's folder")
    parser.add_argument("--data-dir", metavar="DIR", help="where TFDS keeps corpora")
    parser.add_argument(
        "--budget",
        choices=("full", "short"),
        default="full",
        help=f"short: {_SHORT_STEPS} steps, for a first look",
    )
    add_weights_arguments(parser)
    parser.add_argument(
        "--params_override",
        metavar="A.B=C,…",
        action="append",
        default=[],
        help="as align-keras train",
    )
    parser.add_argument("--json", action="store_true", help="print metrics as JSON")


def run(arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    on_disk("data_dir", arguments.data_dir)
    from align_keras.runs.experiment import train_experiment
    from align_keras.utils.progress import say

    name = arguments.corpus
    command = f"align-keras quickstart --corpus {arguments.corpus}"
    if arguments.pairs:
        name = "pairs"
        command = f"align-keras quickstart --pairs {shlex.quote(arguments.pairs)}"
    directory = pathlib.Path(arguments.model_dir or f"saved_models/quickstart_{name}")
    trained = train_experiment(
        quickstart_config(arguments), directory, with_results=True, command=command
    )
    print_metrics(trained.metrics, as_json=arguments.json)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    report = directory / "report.html"
    say(f"done in {minutes} min {seconds} s. Open {report}. Next:")
    # This import loads TensorFlow, which `train_experiment` has started.
    from align_keras.evaluation import flatten_captions
    from align_keras.runs.results import (
        EXAMPLE_CAPTIONS,
        choose_example_caption,
        next_commands,
    )
    from align_keras.search import Index

    pairs = trained.read_validation_pairs()
    captions, _ = flatten_captions(pairs.captions)
    caption = choose_example_caption(
        Index.open(directory / "index"),
        pairs,
        trained.model.encode_texts(captions[:EXAMPLE_CAPTIONS]),
    )
    for next_command in next_commands(trained.config, directory, caption):
        say(f"  {next_command}")
    if not arguments.json:
        print_hits(f"Example: {caption}", trained.search(caption, k=3))
    return 0


def quickstart_config(arguments: argparse.Namespace) -> Any:
    """Returns the `ExperimentConfig` of the command's arguments."""
    from align_keras.config import load_config

    overrides = weights_overrides(arguments)
    experiment = "quickstart_icons"
    if arguments.pairs:
        experiment = "quickstart_stamps"
        pairs = arguments.pairs
        if not is_url(pairs):
            pairs = str(pathlib.Path(pairs).resolve())
            if not pathlib.Path(pairs).exists():
                raise InputError(
                    f"--pairs: no such file or folder: {arguments.pairs}. Check the "
                    "path."
                )
        overrides |= _both("corpus", "pairs") | _both("pairs", pairs)
    elif arguments.corpus != "icons":
        experiment = "quickstart_stamps"
        overrides["task.validation_data.corpus"] = arguments.corpus
    names = ("image_column", "caption_column", "encoding", "max_bad_fraction")
    options = {name: getattr(arguments, name) for name in names}
    for name, value in (options | {"tfds_data_dir": arguments.data_dir}).items():
        if value is not None:
            overrides |= _both(name, value)
    if arguments.budget == "short":
        overrides["trainer.train_steps"] = _SHORT_STEPS
        overrides["trainer.validation_interval"] = _SHORT_STEPS
    return load_config(experiment, [], [overrides, *arguments.params_override])


def _both(name: str, value: Any) -> dict[str, Any]:
    """Returns the override of a data option for training and validation."""
    sections = ("train_data", "validation_data")
    return {f"task.{section}.{name}": value for section in sections}
