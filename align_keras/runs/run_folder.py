"""Folder of a run, and the configuration to which it is bound."""

import contextlib
import json
import os
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

from align_keras.config import (
    ExperimentConfig,
    changed_keys,
    load_config,
    write_config_file,
)
from align_keras.config.fields import changeable_keys, without_queries
from align_keras.presets.layout import VOCABULARY_ASSET, check_no_saved_model
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, hold, locked, refuse_url
from align_keras.utils.progress import say

PARAMS_FILE = "params.yaml"


def lock_folder(
    config: ExperimentConfig,
    directory: str | os.PathLike,
    is_read_only: bool = False,
) -> contextlib.AbstractContextManager:
    """Binds a folder to a configuration and keeps other processes from writing to it.

    A folder with a checkpoint is bound to its configuration. Before the first
    checkpoint, all options may change, so that a mistake can be corrected. Later, only
    some options may change. The former configuration is then saved as
    `params.until_step_N.yaml`.

    Args:
        config: `ExperimentConfig`.
        directory: folder of the run.
        is_read_only: bool. If True, the folder is neither bound nor locked.

    Returns:
        Context manager, which unlocks the folder at its exit. The end of the process
        also unlocks the folder.

    Raises:
        InputError: if the folder holds a run with another configuration, or if another
            process is writing it.
    """
    if is_read_only:
        directory = pathlib.Path(directory)
        if newest_step(directory) is not None:
            _check_changes(_changes(config, directory), directory)
        return contextlib.nullcontext()
    refuse_url(directory, "model_dir")
    # Saving the trained model would fail after the training.
    check_no_saved_model("model_dir", directory)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lock = hold(directory / f".run{_worker_suffix(config)}.lock")
    if lock is None:
        raise InputError(
            "--model_dir must be written by one process at a time. Received: "
            f"{directory}, which another process is writing. Wait until that process "
            "has finished, or choose another folder."
        )
    try:
        # The workers of a run bind the folder one after another.
        with locked(directory / PARAMS_FILE):
            _bind(config, directory)
    except BaseException:
        lock.lock.release()
        raise
    return lock


def _worker_suffix(config: ExperimentConfig) -> str:
    """Returns the suffix of the lock file of this worker."""
    if config.runtime.distribution_strategy != "multi_worker_mirrored":
        return ""
    try:
        task = json.loads(os.environ.get("TF_CONFIG", "{}"))["task"]
        return f".{task['type']}-{task['index']:d}"
    except (ValueError, LookupError, TypeError):
        # TensorFlow reports a mistake in TF_CONFIG later.
        return ""


def _changes(
    config: ExperimentConfig, directory: pathlib.Path
) -> dict[str, tuple[Any, Any]]:
    """Returns the options that differ from the configuration of a folder."""
    path = directory / PARAMS_FILE
    if not path.exists():
        return {}
    stored_config = without_queries(load_config(config_files=[path]))
    return changed_keys(stored_config, config)


def _bind(config: ExperimentConfig, directory: pathlib.Path) -> None:
    """Saves the configuration, or raises if the folder holds another run."""
    path = directory / PARAMS_FILE
    changes = _changes(config, directory)
    step = newest_step(directory)
    if changes and step is not None:
        _check_changes(changes, directory)
        former = directory / f"params.until_step_{step}.yaml"
        # After a second change at this step, the file still holds the configuration
        # that trained until this step.
        if not former.exists():
            with atomic_write(former) as file:
                file.write(path.read_text("utf-8"))
        write_config_file(config, path)
        say(f"from step {step} on: {describe_changes(changes)}")
        return
    if changes and (directory / "config.json").exists():
        # Training from the start would replace the finished model.
        _refuse_changes(changes, {}, directory)
    if changes:
        (directory / VOCABULARY_ASSET).unlink(missing_ok=True)
    if changes or not path.exists():
        write_config_file(config, path)
        say(f"run folder {directory}")


def _check_changes(changes: Mapping[str, tuple], directory: pathlib.Path) -> None:
    """Raises if an option has changed that is fixed after the first checkpoint."""
    changeable = set(changeable_keys(ExperimentConfig))
    allowed = {key: values for key, values in changes.items() if key in changeable}
    fixed = {key: values for key, values in changes.items() if key not in changeable}
    if fixed:
        _refuse_changes(fixed, allowed, directory)


def _refuse_changes(
    fixed: Mapping[str, tuple], allowed: Mapping[str, tuple], directory: pathlib.Path
) -> None:
    note = f" ({', '.join(sorted(allowed))} could change)" if allowed else ""
    raise InputError(
        f"{directory} contains a run with another configuration: "
        f"{describe_changes(fixed)}{note}. Use another --model_dir, or resume that run "
        f"with --config_file {directory / PARAMS_FILE}."
    )


def newest_step(directory: pathlib.Path) -> int | None:
    """Returns the step of the newest checkpoint of a run, or None.

    A fine-tuning has a folder of checkpoints for each stage. Its step is the largest
    one of all stages.
    """
    names = [
        path.stem
        for pattern in ("checkpoints", "stages/*/checkpoints")
        for path in directory.glob(f"{pattern}/ckpt-*.index")
    ]
    steps = [int(name[5:]) for name in names if name[5:].isdigit()]
    return max(steps, default=None)


def describe_changes(changed: Mapping[str, tuple]) -> str:
    """Returns a text with the old and the new value of each changed option."""
    return ", ".join(
        f"{key} was {old!r} and is now {new!r}"
        for key, (old, new) in sorted(changed.items())
    )


def train_command(directory: str | os.PathLike, mode: str | None = None) -> str:
    """Returns the command that resumes a run from its params.yaml."""
    folder = shlex.quote(str(directory))
    command = f"align-keras train --config_file {folder}/{PARAMS_FILE} "
    command += f"--model_dir {folder}"
    return command if mode is None else f"{command} --mode {mode}"


def check_finished(directory: str | os.PathLike) -> None:
    """Raises InputError with a remedy if a folder has no trained model."""
    directory = pathlib.Path(directory)
    if (directory / "config.json").exists():
        return
    remedy = "Check the path, or create a run with `align-keras quickstart`"
    if (directory / PARAMS_FILE).exists():
        remedy = f"To finish the run, run `{train_command(directory)}`"
    raise InputError(
        f"`model_dir` must be the folder of a finished run. Received: {directory}, "
        f"which has no config.json. {remedy}."
    )


def searched_model(directory: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of the model that embeds the queries of a run's index.

    It is the export, or the folder of the run if it has no export.
    """
    directory = pathlib.Path(directory)
    export = directory / "export"
    return export if export.is_dir() else directory


def check_searchable(directory: str | os.PathLike) -> None:
    """Raises InputError with a remedy if a run has no index."""
    directory = pathlib.Path(directory)
    if (directory / "index").is_dir():
        return
    check_finished(directory)
    raise InputError(
        f"A search needs the index of a finished run. Received: {directory}, which has "
        f"no index. Run `{train_command(directory, 'index')}`."
    )
