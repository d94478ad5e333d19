"""A run's folder: the configuration that it is bound to."""

import json
import os
import pathlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

from align_keras.config import (
    ExperimentConfig,
    changed_keys,
    load_config,
    write_config_file,
)
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
# What a run has begun with: fingerprints of its training pairs and its vocabulary.
INPUTS_FILE = "inputs.json"
# What may change in a run that has begun: how long, how fast and how often; where
# things lie and on what devices they run. The rest is what the weights, the batches
# or the optimizer's variables mean.
_CHANGEABLE = (
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


def lock_config(config: ExperimentConfig, directory: str | os.PathLike) -> Any:
    """Binds a folder to a configuration; until the end no other process can write it.

    A folder is bound once it holds a checkpoint; before that, a run that failed on a
    mistake can be corrected. Some options of a bound run may change: what they were is
    kept as `params.until_step_N.yaml`.
    """
    check_corpora(config)
    check_selection(config)
    refuse_url(directory, "model_dir")
    directory = pathlib.Path(directory)
    if newest_step(directory) is None:
        check_pairs(config)
    directory.mkdir(parents=True, exist_ok=True)
    held = hold(directory / f".run{_task(config)}.lock")
    if held is None:
        raise InputError(
            f"--model_dir must be a run that no other process is writing, received "
            f"{directory}, where one is at work; let it end, or name another folder."
        )
    try:
        with locked(directory / PARAMS_FILE):  # All workers of a run come here.
            _bind(config, directory)
    except BaseException:
        held.lock.release()
        raise
    return held


def _task(config):
    """What tells this worker from others of its run, each with another lock."""
    if config.runtime.distribution_strategy != "multi_worker_mirrored":
        return ""
    try:
        task = json.loads(os.environ.get("TF_CONFIG", "{}"))["task"]
        return f".{task['type']}-{task['index']:d}"
    except (ValueError, LookupError, TypeError):  # TensorFlow says what is wrong.
        return ""


def _bind(config, directory):
    path = directory / PARAMS_FILE
    changed = {}
    if path.exists():
        changed = changed_keys(load_config(config_files=[path]), config)
    step = newest_step(directory)
    if changed and step is not None:
        allowed = re.compile("|".join(_CHANGEABLE))
        fixed = {key: of for key, of in changed.items() if not allowed.fullmatch(key)}
        if fixed:
            others = ", ".join(sorted(set(changed) - set(fixed)))
            also = f" ({others} could change)" if others else ""
            raise InputError(
                f"{directory} holds a run with another configuration: "
                f"{describe_changes(fixed)}{also}; give another --model_dir, or "
                f"--config_file {path} to go on with that run."
            )
        path.replace(directory / f"params.until_step_{step}.yaml")
        write_config_file(config, path)
        say(f"from step {step} on: {describe_changes(changed)}")
        return
    if changed:
        (directory / "vocabulary.txt").unlink(missing_ok=True)
    if changed or not path.exists():
        write_config_file(config, path)
        say(f"run folder {directory}")


def check_inputs(
    directory: str | os.PathLike,
    inputs: Mapping[str, str | int],
    read_only: bool = False,
) -> None:
    """Raises unless a run has the training pairs and the vocabulary that it began with.

    The first start records them. A run that an earlier version wrote has no record, so
    its next start makes one.

    Args:
        directory: str or path of the run's folder.
        inputs: dict of `train_pairs` and `vocabulary`, their fingerprints, and of
            `train_images`, their number. Some may be left out.
        read_only: bool, True to record nothing.

    Raises:
        InputError: names the input that differs and what can be done.
    """
    directory = pathlib.Path(directory)
    path = directory / INPUTS_FILE
    recorded: dict[str, Any] = read_json(path) if path.exists() else {}
    if newest_step(directory) is None:
        # The run can still be corrected, and begins with these inputs.
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
        before, now = recorded.get("train_images"), inputs.get("train_images")
        if before == now:
            change = f"their captions, ids or pixels differ, their number is {now}"
        else:
            change = f"{before} images then and {now} now"
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
    """The step of a run's newest checkpoint, or None without one."""
    names = (path.stem for path in (directory / "checkpoints").glob("ckpt-*.index"))
    steps = [int(name[5:]) for name in names if name[5:].isdigit()]
    return max(steps, default=None)


def describe_changes(changed: Mapping[str, tuple]) -> str:
    """Says what each of the changed options was and is."""
    return ", ".join(
        f"{key} was {old!r} and is now {new!r}"
        for key, (old, new) in sorted(changed.items())
    )


def check_corpora(config: ExperimentConfig) -> None:
    """Raises unless training and validation name pairs that can be there."""
    for section in ("train_data", "validation_data"):
        data = getattr(config.task, section)
        if data.corpus is None and data.source is None:
            raise InputError(
                f"task.{section}.corpus must name a corpus, received null; give an "
                "--experiment, a --config_file, or "
                f"--params_override task.{section}.corpus=icons."
            )
        if data.pairs and not is_url(data.pairs) and not os.path.exists(data.pairs):
            raise InputError(
                f"task.{section}.pairs: no such file or folder: {data.pairs}; check "
                "the path."
            )


def check_pairs(config: ExperimentConfig) -> None:
    """Raises for tables and folders of which no run can be trained, as far as it shows
    before images are decoded, which needs TensorFlow.
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
        # One image at least is for tests.
        most = counts[key] - (data.tfds_split == "train")
        if data is config.task.train_data and data.global_batch_size > most:
            raise InputError(
                f"task.train_data.global_batch_size may be at most the {most} images "
                f"to train on of {data.pairs}, received {data.global_batch_size}; use "
                f"--params_override task.train_data.global_batch_size={max(most, 1)} "
                "or less, or give more pairs: two different images at least."
            )


def check_selection(config: ExperimentConfig) -> None:
    """Raises if the best checkpoint would be chosen by what the model is tested on."""
    trainer, data = config.trainer, config.task.validation_data
    if trainer.best_checkpoint_eval_metric is None or trainer.best_checkpoint_by_test:
        return
    table = pathlib.Path(data.pairs).name if data.pairs else ""
    for name, value in (("tfds_split", data.tfds_split), ("pairs", table)):
        # Of a corpus with splits, all holds test as well.
        if names_test(value) or (value == "all" and not table):
            raise InputError(
                f"task.validation_data.{name} must name no test pairs where "
                "trainer.best_checkpoint_eval_metric chooses a checkpoint by them, "
                f"received {value!r}; name others, such as Karpathy's val or a part of "
                "train that isn't trained on, or write "
                "trainer.best_checkpoint_by_test=true."
            )


def names_test(name: str) -> bool:
    """Whether a split or a table's file name says that it is for tests.

    Example:
    >>> [names_test(name) for name in ("test[:9]", "karpathy_test.tsv", "latest")]
    [True, True, False]
    """
    return re.search(r"(?<![a-z])tests?(?![a-z])", name.lower()) is not None


def train_command(directory: str | os.PathLike, mode: str | None = None) -> str:
    """The command that goes on with a run, from its params.yaml."""
    folder = shlex.quote(str(directory))
    command = f"align-keras train --config_file {folder}/{PARAMS_FILE} "
    command += f"--model_dir {folder}"
    return command if mode is None else f"{command} --mode {mode}"


def check_finished(directory: str | os.PathLike) -> None:
    """Raises unless a folder holds a trained model; names what trains it."""
    directory = pathlib.Path(directory)
    if (directory / "config.json").exists():
        return
    if not (directory / PARAMS_FILE).exists():
        raise InputError(
            f"{directory} must be a run's folder, but has neither config.json nor "
            f"{PARAMS_FILE}; check --model_dir."
        )
    raise InputError(
        f"{directory} must be a finished run, but holds no trained model; let it end: "
        f"`{train_command(directory)}`."
    )


def check_searchable(directory: str | os.PathLike) -> None:
    """Raises if a run has no index or no export; names what builds them."""
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise InputError(
            f"`model_dir` must be the folder of a finished run, received {directory}, "
            "which doesn't exist; `align-keras quickstart` makes one."
        )
    missing = [name for name in ("index", "export") if not (directory / name).is_dir()]
    if not missing or not (directory / PARAMS_FILE).exists():
        return  # What isn't a run is told by those who open these folders.
    check_finished(directory)
    raise InputError(
        f"{directory} is a finished run without {' and '.join(missing)}, which search "
        f"opens; build them by `{train_command(directory, 'index')}`."
    )
