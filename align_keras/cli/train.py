"""`align-keras train`: runs an experiment, as TF Model Garden's `train.py`."""

import pathlib

from align_keras.cli import warm_start
from align_keras.cli.run_folder import lock_config
from align_keras.config import load_config

MODES = ("train", "eval", "train_and_eval")


def add_config_arguments(parser):
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


def add_arguments(parser):
    """Adds the command's arguments to its parser."""
    add_config_arguments(parser)
    warm_start.add_arguments(parser)
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="train_and_eval",
        help="train, eval (of a checkpoint), or both (default)",
    )
    parser.add_argument(
        "--checkpoint",
        choices=("latest", "best"),
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


def run(arguments):
    """Runs the command; returns its exit code."""
    config = load_config(
        arguments.experiment,
        arguments.config_file,
        [warm_start.overrides(arguments), *arguments.params_override],
    )
    directory = pathlib.Path(arguments.model_dir)
    if arguments.mode != "eval":
        lock_config(config, directory)
    from align_keras.cli.pipeline import open_run
    from align_keras.cli.results import print_metrics

    opened = open_run(config, directory)
    if arguments.mode == "eval":
        metrics = opened.evaluate_checkpoint(arguments.checkpoint)
    else:
        opened.train(evaluate=arguments.mode == "train_and_eval")
        opened.save()
        metrics = opened.last_metrics()
    print_metrics(metrics, as_json=arguments.json)
    return 0
