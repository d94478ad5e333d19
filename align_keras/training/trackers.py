"""Keras callbacks that log a run to TensorBoard, MLflow or Weights & Biases."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json

# File with the id of the run in each tracker, which a resumed run continues.
RUN_IDS_FILE = "trackers.json"


@contextlib.contextmanager
def tracker_callbacks(
    names: Iterable[str], directory: pathlib.Path, config: dict[str, Any]
) -> Iterator[list[keras.callbacks.Callback]]:
    """Starts the run in each tracker, or continues it, and ends it at the exit.

    Args:
        names: names of trackers, as in `trainer.callbacks`.
        directory: folder of the run. Its `trackers.json` has the ids of the run.
        config: configuration of the run, as nested dicts.

    Yields:
        The Keras callback that each tracker ships.

    Raises:
        InputError: if a tracker can't start, for example because of a wrong login.
    """
    callbacks = []
    with contextlib.ExitStack() as runs:
        for name in names:
            try:
                if name == "tensorboard":
                    callback = _tensorboard_callback(directory)
                elif name == "mlflow":
                    callback = _mlflow_callback(runs, directory, config)
                else:
                    callback = _wandb_callback(runs, directory, config)
            except Exception as error:
                raise InputError(
                    f"trainer.callbacks must contain trackers that can start. "
                    f"Received: {name}, which failed with: {error}. Check its server "
                    "and login, or remove it from trainer.callbacks."
                ) from None
            callbacks.append(callback)
        yield callbacks


def _run_id(directory: pathlib.Path, name: str) -> str | None:
    return read_json(directory / RUN_IDS_FILE).get(name)


def _save_run_id(directory: pathlib.Path, name: str, run_id: str) -> None:
    run_ids = read_json(directory / RUN_IDS_FILE) | {name: run_id}
    with atomic_write(directory / RUN_IDS_FILE) as file:
        json.dump(run_ids, file, indent=1)


def _tensorboard_callback(directory: pathlib.Path) -> keras.callbacks.Callback:
    return keras.callbacks.TensorBoard(
        str(directory / "tensorboard"), write_graph=False
    )


def _mlflow_callback(
    runs: contextlib.ExitStack, directory: pathlib.Path, config: dict[str, Any]
) -> keras.callbacks.Callback:
    # The commands print their results on stdout.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow

    run_id = _run_id(directory, "mlflow")
    run = runs.enter_context(mlflow.start_run(run_id, run_name=directory.name))
    _save_run_id(directory, "mlflow", run.info.run_id)
    mlflow.log_dict(config, "params.yaml")
    return mlflow.keras.MlflowCallback()


def _wandb_callback(
    runs: contextlib.ExitStack, directory: pathlib.Path, config: dict[str, Any]
) -> keras.callbacks.Callback:
    import wandb
    from wandb.integration.keras import WandbMetricsLogger

    run = runs.enter_context(
        wandb.init(
            id=_run_id(directory, "wandb"),
            name=directory.name,
            config=config,
            resume="allow",
            allow_val_change=True,
        )
    )
    _save_run_id(directory, "wandb", run.id)
    return WandbMetricsLogger()
