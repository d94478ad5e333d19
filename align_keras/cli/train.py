"""`align-keras train`: trains or evaluates an experiment."""

import argparse
import pathlib
from typing import Any

from align_keras.cli.common import print_json, print_table
from align_keras.runs.modes import CHECKPOINTS, MODES

_IMAGE = "task.model.image_encoder"
_TEXT = "task.model.text_encoder"
_LITE = "efficientnet-lite"
# Arguments of the text encoder that MiniLM's weights fit.
_MINILM = {
    "variant": "minilm_l6",
    "activation": "gelu",
    "pooling": "mean",
    "max_sequence_length": 512,
}
# Arguments of the encoders that all weights of align_small_en fit.
_SMALL_IMAGE = {
    "variant": "efficientnet_lite2",
    "image_size": 160,
    "num_classes": 1000,
}
_SMALL_TEXT = {**_MINILM, "projection": False, "sequence_length": 32}
_SMALL_WIDTH = 384
_SMALL = "align_small_en"


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that make up a configuration."""
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        help="a file of experiments/ without .yaml, or a path; its values come first",
    )
    parser.add_argument(
        "--config_file",
        metavar="F",
        action="append",
        default=[],
        help="YAML merged over the experiment, in the order given; a run's params.yaml "
        "reproduces the run",
    )
    parser.add_argument(
        "--params_override",
        metavar="A.B=C,…",
        action="append",
        default=[],
        help="values that come last, such as trainer.train_steps=100",
    )


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that start a run's encoders from public weights."""
    parser.add_argument(
        "--image-weights",
        metavar="W",
        help="start the image encoder from efficientnet-lite0 to -lite4 (which set the "
        "variant too), align_small_en (which sets the sizes too), imagenet, an .h5 "
        "file of keras.applications, or the folder of an ALIGN",
    )
    parser.add_argument(
        "--text-weights",
        metavar="W",
        help="start the text encoder and its vocabulary from minilm-l6 or "
        "align_small_en (which set the sizes too), a BERT's folder, a TF Model Garden "
        "checkpoint, or the folder of an ALIGN",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_weights_arguments(parser)
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="train_and_eval",
        help="train, eval (of a checkpoint), or both (default); or index: write into "
        "a finished run its export and the index of its validation pairs, for "
        "align-keras search",
    )
    parser.add_argument(
        "--checkpoint",
        choices=CHECKPOINTS,
        default="latest",
        help="which checkpoint --mode eval takes; the best one is by "
        "trainer.best_checkpoint_eval_metric",
    )
    parser.add_argument(
        "--model_dir", required=True, metavar="DIR", help="the run's folder"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the final metrics as JSON"
    )


def run(arguments: argparse.Namespace) -> int:
    from align_keras.config import load_config
    from align_keras.runs.experiment import train_experiment

    config = load_config(
        arguments.experiment,
        arguments.config_file,
        [weights_overrides(arguments), *arguments.params_override],
    )
    trained = train_experiment(
        config,
        arguments.model_dir,
        mode=arguments.mode,
        checkpoint=arguments.checkpoint,
    )
    print_metrics(trained.metrics, as_json=arguments.json)
    return 0


def weights_overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the overrides of `--image-weights` and `--text-weights`."""
    values: dict[str, Any] = {}
    if _SMALL in (arguments.image_weights, arguments.text_weights):
        values["task.model.projection_dim"] = _SMALL_WIDTH
    if arguments.image_weights == _SMALL:
        values |= {f"{_IMAGE}.{name}": value for name, value in _SMALL_IMAGE.items()}
        # None starts from the learned temperature of the weights.
        values["task.model.initial_temperature"] = None
    if arguments.text_weights == _SMALL:
        values |= {f"{_TEXT}.{name}": value for name, value in _SMALL_TEXT.items()}
    if arguments.image_weights is not None:
        values[f"{_IMAGE}.weights"] = _absolute(arguments.image_weights)
        if arguments.image_weights.startswith(_LITE):
            values[f"{_IMAGE}.variant"] = arguments.image_weights.replace("-", "_")
    if arguments.text_weights is not None:
        values[f"{_TEXT}.weights"] = _absolute(arguments.text_weights)
        if arguments.text_weights == "minilm-l6":
            values |= {f"{_TEXT}.{name}": value for name, value in _MINILM.items()}
    return values


def _absolute(weights: str) -> str:
    """Makes a path absolute, so that it is valid in any folder. Keeps names."""
    path = pathlib.Path(weights)
    is_path = path.exists() or pathlib.Path(f"{weights}.index").exists()
    return str(path.resolve()) if is_path else weights


def print_metrics(metrics: dict[str, float], as_json: bool = False) -> None:
    """Prints a run's retrieval metrics to stdout, as a table or as JSON."""
    if as_json:
        print_json(dict(sorted(metrics.items())))
        return
    from align_keras.reports.report import DIRECTIONS, retrieval_rows

    rows = [
        (
            DIRECTIONS[row.direction],
            row.k,
            f"{100 * row.recall:.1f}",
            "" if row.chance is None else f"{100 * row.chance:.2f}",
            "" if row.times_chance is None else f"{row.times_chance:.0f}",
            _count(row.queries),
            _count(row.candidates),
        )
        for row in retrieval_rows(metrics)
    ]
    columns = (
        "direction",
        "at k",
        "recall %",
        "chance %",
        "× chance",
        "queries",
        "among",
    )
    print_table("Zero-shot retrieval on the test pairs", columns, rows)


def _count(number: float | None) -> str:
    return "" if number is None else f"{number:,.0f}"
