"""`align-keras train`: trains or evaluates an experiment."""

import argparse
import pathlib
from typing import Any

from align_keras.cli.common import print_json, print_table

_IMAGE = "task.model.image_encoder"
_TEXT = "task.model.text_encoder"
_LITE = "efficientnet-lite"
# Arguments of the text encoder that match the weights of MiniLM.
_MINILM = {
    "variant": "minilm_l6",
    "activation": "gelu",
    "pooling": "mean",
    "max_sequence_length": 512,
}
# Arguments of the encoders that match the weights of align_small_en.
_SMALL_IMAGE = {
    "variant": "efficientnet_lite0",
    "image_size": 144,
    "num_classes": 1000,
}
_SMALL_TEXT = {**_MINILM, "projection": False, "sequence_length": 32}
_SMALL_DIMENSION = 384
_SMALL = "align_small_en"


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that select and override a configuration."""
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        help="name of a file in experiments/ without .yaml, or path of a YAML file. "
        "--config_file and --params_override override its values.",
    )
    parser.add_argument(
        "--config_file",
        metavar="F",
        action="append",
        default=[],
        help="YAML file that overrides values of the experiment. Repeat the option for "
        "several files, of which the last file takes precedence. The params.yaml of a "
        "run reproduces the run.",
    )
    parser.add_argument(
        "--params_override",
        metavar="A.B=C,…",
        action="append",
        default=[],
        help="values that override the experiment and the files, such as "
        "trainer.train_steps=100",
    )


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that initialize the encoders with public weights."""
    parser.add_argument(
        "--image-weights",
        metavar="W",
        help="initial weights of the image encoder: efficientnet-lite0 to -lite4 "
        "(which also set the variant), align_small_en (which also sets the sizes), "
        "imagenet, an .h5 file of keras.applications, or the folder of an ALIGN model",
    )
    parser.add_argument(
        "--text-weights",
        metavar="W",
        help="initial weights and vocabulary of the text encoder: minilm-l6 or "
        "align_small_en (which also set the sizes), the folder of a BERT model, a TF "
        "Model Garden checkpoint, or the folder of an ALIGN model",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_weights_arguments(parser)
    parser.add_argument(
        "--mode",
        choices=("train", "eval", "train_and_eval", "index"),
        default="train_and_eval",
        help="train only, evaluate a checkpoint only (eval), or do both "
        "(train_and_eval, the default). index writes the export of a finished run and "
        "the index of its validation pairs, for `align-keras search`.",
    )
    parser.add_argument(
        "--checkpoint",
        choices=("latest", "best"),
        default="latest",
        help="checkpoint that --mode eval evaluates (default: latest). best has the "
        "best value of trainer.best_checkpoint_eval_metric.",
    )
    parser.add_argument(
        "--model_dir", required=True, metavar="DIR", help="folder of the run"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the final metrics as JSON"
    )


def run(arguments: argparse.Namespace) -> int:
    from align_keras.config import load_config
    from align_keras.runs.experiment import (
        evaluate_experiment,
        index_experiment,
        train_experiment,
    )

    config = load_config(
        arguments.experiment,
        arguments.config_file,
        [weights_overrides(arguments), *arguments.params_override],
    )
    if arguments.mode == "eval":
        finished = evaluate_experiment(
            config, arguments.model_dir, arguments.checkpoint
        )
    elif arguments.mode == "index":
        finished = index_experiment(config, arguments.model_dir)
    else:
        finished = train_experiment(
            config,
            arguments.model_dir,
            with_evaluation=arguments.mode == "train_and_eval",
        )
    print_metrics(finished.metrics, as_json=arguments.json)
    return 0


def weights_overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the overrides of the configuration for the chosen public weights."""
    values: dict[str, Any] = {}
    if _SMALL in (arguments.image_weights, arguments.text_weights):
        values["task.model.projection_dim"] = _SMALL_DIMENSION
    if arguments.image_weights == _SMALL:
        values |= {f"{_IMAGE}.{name}": value for name, value in _SMALL_IMAGE.items()}
        # With None, training starts from the temperature in the weights.
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
    """Returns the absolute path of local weights.

    Names of public weights are returned unchanged.
    """
    path = pathlib.Path(weights)
    is_path = path.exists() or pathlib.Path(f"{weights}.index").exists()
    return str(path.resolve()) if is_path else weights


def print_metrics(metrics: dict[str, float], as_json: bool = False) -> None:
    """Prints the retrieval metrics of a run to stdout, as a table or as JSON."""
    if as_json:
        print_json(dict(sorted(metrics.items())))
        return
    from align_keras.reports.run_report import DIRECTIONS, retrieval_rows, width_rows

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
        "k",
        "recall %",
        "chance %",
        "× chance",
        "queries",
        "candidates",
    )
    print_table("Zero-shot retrieval on the test pairs", columns, rows)
    widths = width_rows(metrics)
    if widths:
        names = list(widths[0].recalls)
        print_table(
            "Recall % by number of components",
            ("components", *names),
            [
                (
                    "all" if row.width is None else row.width,
                    *(f"{100 * row.recalls[name]:.1f}" for name in names),
                )
                for row in widths
            ],
        )


def _count(number: float | None) -> str:
    """Returns a number with thousands separators, or "" for None."""
    return "" if number is None else f"{number:,.0f}"
