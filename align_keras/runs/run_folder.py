"""The folder of a run, and the configuration that it is bound to."""

import contextlib
import json
import os
import pathlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

from align_keras.config import ExperimentConfig, changed_keys, load_config, save_config
from align_keras.corpus.pair_files import count_images
from align_keras.utils.errors import InputError
from align_keras.utils.files import (
    atomic_write,
    hold,
    locked,
    read_json,
    refuse_url,
)
from align_keras.utils.progress import say
from align_keras.utils.remote import is_url

PARAMS_FILE = "params.yaml"
# Fingerprints of the training pairs and the vocabulary that a run began with.
INPUTS_FILE = "inputs.json"
# Patterns of the options that may change when a run resumes: its length, rates,
# intervals, paths and devices. All other options decide on the meaning of the weights,
# the batches or the optimizer's variables.
CHANGEABLE_OPTIONS = (
    r"trainer\.(train_steps|checkpoint_interval|validation_interval|max_to_keep)",
    r"trainer\.(best_checkpoint_\w+|loss_upper_bound)",
    r"trainer\.optimizer_config\.(learning_rate|warmup)\..*",
    r"trainer\.optimizer_config\.optimizer\.\w+\.(global_clipnorm|weight_decay)",
    r"task\.(validation_data|evaluation)\..*",
    r"task\.train_data\.(tfds_data_dir|data_service|max_bad_fraction)",
    r"task\.loss\.contrastive\.(tile_size|matmul_dtype)",
    r"task\.model\.\w+_encoder\.rematerialize",
    r"runtime\.(distribution_strategy|num_replicas)",
)


def lock_folder(
    config: ExperimentConfig,
    directory: str | os.PathLike,
    is_read_only: bool = False,
) -> contextlib.AbstractContextManager:
    """Binds a folder to a configuration and keeps other processes from writing to it.

    A folder is bound once it holds a checkpoint. Before that, a run that failed on a
    mistake can be corrected. Some options of a bound run may change. Their former
    values are saved as `params.until_step_N.yaml`.

    Args:
        config: `ExperimentConfig`.
        directory: str, folder of the run.
        is_read_only: bool, True to neither bind nor lock the folder.

    Returns:
        Context manager. Its exit, or the end of the process, frees the folder.

    Raises:
        InputError: if the folder holds a run with another configuration, if another
            process is writing it, or if the pairs can't be used.
    """
    if is_read_only:
        return contextlib.nullcontext()
    check_corpora(config)
    check_selection(config)
    refuse_url(directory, "model_dir")
    directory = pathlib.Path(directory)
    if newest_step(directory) is None:
        check_pairs(config)
    directory.mkdir(parents=True, exist_ok=True)
    lock = hold(directory / f".run{_worker_suffix(config)}.lock")
    if lock is None:
        raise InputError(
            f"--model_dir must be a run that no other process is writing, received "
            f"{directory}, which another process is writing. Let it end, or name "
            "another folder."
        )
    try:
        # All workers of a run bind the folder, one after the other.
        with locked(directory / PARAMS_FILE):
            _bind(config, directory)
    except BaseException:
        lock.lock.release()
        raise
    return lock


def _worker_suffix(config: ExperimentConfig) -> str:
    """Returns a suffix that gives each worker of a run a lock of its own."""
    if config.runtime.distribution_strategy != "multi_worker_mirrored":
        return ""
    try:
        task = json.loads(os.environ.get("TF_CONFIG", "{}"))["task"]
        return f".{task['type']}-{task['index']:d}"
    except (ValueError, LookupError, TypeError):
        # TensorFlow reports the mistake in TF_CONFIG.
        return ""


def _bind(config: ExperimentConfig, directory: pathlib.Path) -> None:
    """Saves the configuration, or raises if the folder holds another run."""
    path = directory / PARAMS_FILE
    changes: dict[str, tuple] = {}
    if path.exists():
        changes = changed_keys(load_config(config_files=[path]), config)
    step = newest_step(directory)
    if changes and step is not None:
        _check_changes(changes, directory)
        path.replace(directory / f"params.until_step_{step}.yaml")
        save_config(config, path)
        say(f"from step {step} on: {describe_changes(changes)}")
        return
    if changes:
        (directory / "vocabulary.txt").unlink(missing_ok=True)
    if changes or not path.exists():
        save_config(config, path)
        say(f"run folder {directory}")


def _check_changes(changes: Mapping[str, tuple], directory: pathlib.Path) -> None:
    """Raises if options changed that are fixed after the first checkpoint."""
    changeable = re.compile("|".join(CHANGEABLE_OPTIONS))
    fixed = {}
    allowed = []
    for key, values in sorted(changes.items()):
        if changeable.fullmatch(key):
            allowed.append(key)
        else:
            fixed[key] = values
    if not fixed:
        return
    note = f" ({', '.join(allowed)} could change)" if allowed else ""
    raise InputError(
        f"{directory} holds a run with another configuration: "
        f"{describe_changes(fixed)}{note}. Give another --model_dir, or "
        f"--config_file {directory / PARAMS_FILE} to resume that run."
    )


def check_inputs(
    directory: str | os.PathLike,
    inputs: Mapping[str, str | int],
    read_only: bool = False,
) -> None:
    """Raises unless a run has the training pairs and the vocabulary that it began with.

    The first start records them. A run of an earlier version has no record, and its
    next start writes one.

    Args:
        directory: str or path of the run's folder.
        inputs: dict of `train_pairs` and `vocabulary`, their fingerprints, and of
            `train_images`, their number. Each of them is optional.
        read_only: bool, True to record nothing.

    Raises:
        InputError: if an input differs. The message names it and the remedy.
    """
    directory = pathlib.Path(directory)
    path = directory / INPUTS_FILE
    recorded: dict[str, Any] = read_json(path) if path.exists() else {}
    if newest_step(directory) is None:
        # A run without a checkpoint can be corrected. It begins with these inputs.
        recorded = {**recorded, **inputs}
        if not read_only:
            _write_inputs(path, recorded)
        return
    vocabulary = inputs.get("vocabulary")
    if vocabulary is not None and recorded.get("vocabulary", vocabulary) != vocabulary:
        raise InputError(
            f"{directory / 'vocabulary.txt'} must hold the vocabulary that the run "
            "began with, but it was changed. Restore the file, remove it to have it "
            "made again, or train in another --model_dir."
        )
    pairs = inputs.get("train_pairs")
    if pairs is not None and recorded.get("train_pairs", pairs) != pairs:
        former_count = recorded.get("train_images")
        count = inputs.get("train_images")
        if former_count == count:
            change = f"their captions, ids or pixels differ, their number is {count}"
        else:
            change = f"{former_count} images then and {count} now"
        raise InputError(
            f"task.train_data must read the pairs that the run {directory} began with, "
            f"but they were changed: {change}. Restore them, or train in another "
            f"--model_dir. To go on with the new pairs all the same, remove {path}."
        )
    if not read_only and {**recorded, **inputs} != recorded:
        _write_inputs(path, {**recorded, **inputs})


def _write_inputs(path: pathlib.Path, inputs: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        json.dump(inputs, file, indent=1)


def newest_step(directory: pathlib.Path) -> int | None:
    """Returns the step of the newest checkpoint of a run, or None."""
    names = (path.stem for path in (directory / "checkpoints").glob("ckpt-*.index"))
    steps = [int(name[5:]) for name in names if name[5:].isdigit()]
    return max(steps, default=None)


def describe_changes(changed: Mapping[str, tuple]) -> str:
    """Returns the former and the present value of each changed option."""
    return ", ".join(
        f"{key} was {old!r} and is now {new!r}"
        for key, (old, new) in sorted(changed.items())
    )


def check_corpora(config: ExperimentConfig) -> None:
    """Raises unless training and validation name a corpus or existing pairs."""
    for section in ("train_data", "validation_data"):
        data = getattr(config.task, section)
        if data.corpus is None and data.source is None:
            raise InputError(
                f"task.{section}.corpus must name a corpus, received null. Give an "
                "--experiment, a --config_file, or "
                f"--params_override task.{section}.corpus=icons."
            )
        if data.pairs and not is_url(data.pairs) and not os.path.exists(data.pairs):
            raise InputError(
                f"task.{section}.pairs: no such file or folder: {data.pairs}. Check "
                "the path."
            )


def check_pairs(config: ExperimentConfig) -> None:
    """Raises for tables and folders that hold too few readable pairs.

    It doesn't decode images, which would need TensorFlow.
    """
    names = ("image_column", "caption_column", "encoding", "max_bad_fraction")
    counts: dict[tuple, int] = {}
    for data in (config.task.train_data, config.task.validation_data):
        if data.pairs is None or is_url(data.pairs):
            continue
        reading = {name: getattr(data, name) for name in names}
        key = data.pairs, *reading.values()
        if key not in counts:
            counts[key] = count_images(data.pairs, **reading)
        # The split `train` leaves at least one image for tests.
        limit = counts[key] - (data.tfds_split == "train")
        if data is config.task.train_data and data.global_batch_size > limit:
            raise InputError(
                f"task.train_data.global_batch_size may be at most the {limit} images "
                f"to train on of {data.pairs}, received {data.global_batch_size}. Use "
                f"--params_override task.train_data.global_batch_size={max(limit, 1)} "
                "or less, or give more pairs, at least two different images."
            )


def check_selection(config: ExperimentConfig) -> None:
    """Raises if the best checkpoint would be chosen by the test pairs."""
    trainer, data = config.trainer, config.task.validation_data
    if trainer.best_checkpoint_eval_metric is None or trainer.best_checkpoint_by_test:
        return
    table = pathlib.Path(data.pairs).name if data.pairs else ""
    for name, value in (("tfds_split", data.tfds_split), ("pairs", table)):
        # The split `all` of a corpus includes its split `test`.
        if names_test(value) or (value == "all" and not table):
            raise InputError(
                f"task.validation_data.{name} must name no test pairs where "
                "trainer.best_checkpoint_eval_metric chooses a checkpoint by them, "
                f"received {value!r}. Name other pairs, such as Karpathy's val or a "
                "part of train that isn't trained on, or set "
                "trainer.best_checkpoint_by_test=true."
            )


def names_test(name: str) -> bool:
    """Returns True if the name of a split or of a table contains the word test.

    Example:
    >>> [names_test(name) for name in ("test[:9]", "karpathy_test.tsv", "latest")]
    [True, True, False]
    """
    return re.search(r"(?<![a-z])tests?(?![a-z])", name.lower()) is not None


def train_command(directory: str | os.PathLike, mode: str | None = None) -> str:
    """Returns the command that resumes a run from its params.yaml."""
    folder = shlex.quote(str(directory))
    command = f"align-keras train --config_file {folder}/{PARAMS_FILE} "
    command += f"--model_dir {folder}"
    return command if mode is None else f"{command} --mode {mode}"


def check_finished(directory: str | os.PathLike) -> None:
    """Raises unless a folder holds a trained model. The message names the remedy."""
    directory = pathlib.Path(directory)
    if (directory / "config.json").exists():
        return
    if not (directory / PARAMS_FILE).exists():
        raise InputError(
            f"{directory} must be a run's folder, but has neither config.json nor "
            f"{PARAMS_FILE}. Check --model_dir."
        )
    raise InputError(
        f"{directory} must be a finished run, but holds no trained model. Let it end: "
        f"`{train_command(directory)}`."
    )


def check_searchable(directory: str | os.PathLike) -> None:
    """Raises if a run has no index or no export. The message names the remedy."""
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise InputError(
            f"`model_dir` must be the folder of a finished run, received {directory}, "
            "which doesn't exist. `align-keras quickstart` makes one."
        )
    missing = [name for name in ("index", "export") if not (directory / name).is_dir()]
    if not missing or not (directory / PARAMS_FILE).exists():
        # The code that opens the folders reports a folder that isn't a run.
        return
    check_finished(directory)
    raise InputError(
        f"{directory} is a finished run without {' and '.join(missing)}, which search "
        f"opens. Build them by `{train_command(directory, 'index')}`."
    )
