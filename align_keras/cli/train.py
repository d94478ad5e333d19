"""`align-keras train`: runs an experiment, as TF Model Garden's `train.py`."""

import contextlib
import dataclasses
import os
import pathlib

from align_keras.cli import warm_start
from align_keras.config import load_config
from align_keras.runs.run_folder import check_finished, lock_config, train_command

MODES = ("train", "eval", "train_and_eval", "index")


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
        help="train, eval (of a checkpoint), or both (default); or index: write into "
        "a finished run its export and the index of its validation pairs, for "
        "align-keras search",
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
    if arguments.mode == "index":
        check_finished(directory)
    # Judging a checkpoint writes nothing, and may go on beside the training.
    reads = arguments.mode == "eval"
    with contextlib.nullcontext() if reads else lock_config(config, directory):
        metrics = _run_mode(arguments, config, directory)
    from align_keras.cli.results import print_metrics

    print_metrics(metrics, as_json=arguments.json)
    return 0


def _run_mode(arguments, config, directory):
    from align_keras.runs.pipeline import open_run

    with _damage_named(config.task):
        return _run_opened(arguments, open_run(config, directory))


def _run_opened(arguments, opened):
    if arguments.mode == "eval":
        return opened.evaluate_checkpoint(arguments.checkpoint)
    if arguments.mode == "index":
        return index_run(opened)
    opened.train(evaluate=arguments.mode == "train_and_eval")
    opened.save()
    return opened.last_metrics()


@contextlib.contextmanager
def _damage_named(task):
    """Says which shards are damaged where one can't be read, of which it isn't told."""
    try:
        yield
    except Exception as error:
        if "DataLossError" in (type(error).__name__, type(error.__cause__).__name__):
            from align_keras.datasets.build import refuse_damaged

            for corpus in (task.train_data.corpus, task.validation_data.corpus):
                if corpus and os.path.isdir(corpus):
                    refuse_damaged(corpus)
        raise


def index_run(run):
    """Writes what `align-keras search` opens into a finished run; returns its metrics.

    Args:
        run: `Run`, of which all is taken but the model, which lies in its folder.
    """
    from align_keras.cli.quickstart import next_steps
    from align_keras.models import ALIGN
    from align_keras.runs.outcome import finish_run

    run = dataclasses.replace(run, model=ALIGN.from_preset(run.directory))
    steps = next_steps(run.directory, run.test_set.captions[0][0])
    finish_run(run, train_command(run.directory), steps)
    return run.last_metrics()
