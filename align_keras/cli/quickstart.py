"""`align-keras quickstart`: trains a small model, evaluates it and searches with it."""

import argparse
import dataclasses
import pathlib
import shlex
import time
from typing import Any

from align_keras.cli.common import add_table_options, check_local_path
from align_keras.cli.search import print_hits
from align_keras.cli.train import (
    add_weights_arguments,
    print_metrics,
    weights_overrides,
)
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import MissingExtraError, has_tensorflow
from align_keras.utils.progress import say

CORPORA = ("icons", "stamps")
# Experiment → number of training steps for `--budget short`, which continuous
# integration uses.
_SHORT_STEPS = {"quickstart_icons": 100, "quickstart_stamps": 300}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--corpus",
        choices=CORPORA,
        default="icons",
        help="training and test pairs. icons (default): icon fonts, tested on a font "
        "that is not in the training set. stamps: the drawings that `python -m "
        "tools.make_drawings clipart` writes, tested on the stamps of Tux Paint.",
    )
    source.add_argument(
        "--pairs",
        metavar="PATH",
        help="your image-caption pairs instead of a corpus: a CSV, TSV or JSONL file "
        "with a column of image paths and a column of captions, which may be on s3://, "
        "gs://, hf:// or https://, or a folder of NAME.jpg|png|webp next to NAME.txt",
    )
    add_table_options(parser)
    parser.add_argument(
        "--max-bad-fraction",
        type=float,
        metavar="F",
        help="largest fraction of unusable pairs, such as pairs with a missing image. "
        "A larger fraction is an error (default: 0.1).",
    )
    parser.add_argument(
        "--model_dir",
        metavar="DIR",
        help="folder of the run (default: saved_models/quickstart_CORPUS)",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="folder in which TFDS stores the corpora"
    )
    parser.add_argument(
        "--budget",
        choices=("full", "short"),
        default="full",
        help="length of the training. short trains for a third of the steps "
        "(default: full)",
    )
    add_weights_arguments(parser)
    parser.add_argument(
        "--params_override",
        metavar="A.B=C,…",
        action="append",
        default=[],
        help="values that override the configuration, as in `align-keras train`",
    )
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")


def run(arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    check_local_path("data_dir", arguments.data_dir)
    if not has_tensorflow():
        raise MissingExtraError("The quickstart needs TensorFlow", "quickstart")
    from align_keras.runs.experiment import train_experiment

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
    say(f"done in {minutes} min {seconds} s. Open {report}. Commands to try next:")
    # These imports load TensorFlow, which `train_experiment` must configure first.
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
        # The right image is known, so the example needs no estimate of the matches.
        hits = [
            dataclasses.replace(hit, relevance=None)
            for hit in trained.search(caption, k=3)
        ]
        images = [
            name
            for name, texts in zip(pairs.ids, pairs.captions, strict=True)
            if caption in texts
        ]
        title = f"No test caption finds its image first. An example: {caption}"
        if hits and hits[0].path in images:
            title = f"One test caption that finds its image first: {caption}"
        print_hits(title, hits)
    return 0


def quickstart_config(arguments: argparse.Namespace) -> Any:
    """Returns the `ExperimentConfig` for the arguments of the command."""
    from align_keras.config import load_config

    overrides = weights_overrides(arguments)
    experiment = "quickstart_icons"
    if arguments.pairs:
        experiment = "quickstart_stamps"
        pairs = arguments.pairs
        if not is_url(pairs):
            pairs = str(pathlib.Path(pairs).resolve())
        overrides |= _data_overrides("corpus", "pairs")
        overrides |= _data_overrides("pairs", pairs)
    elif arguments.corpus == "stamps":
        experiment = "quickstart_stamps"
    names = ("image_column", "caption_column", "encoding", "max_bad_fraction")
    options = {name: getattr(arguments, name) for name in names}
    for name, value in (options | {"tfds_data_dir": arguments.data_dir}).items():
        if value is not None:
            overrides |= _data_overrides(name, value)
    if arguments.budget == "short":
        steps = _SHORT_STEPS[experiment]
        overrides["trainer.train_steps"] = steps
        overrides["trainer.validation_interval"] = steps
    return load_config(experiment, [], [overrides, *arguments.params_override])


def _data_overrides(name: str, value: Any) -> dict[str, Any]:
    """Returns the overrides that set a data option for training and validation."""
    sections = ("train_data", "validation_data")
    return {f"task.{section}.{name}": value for section in sections}
