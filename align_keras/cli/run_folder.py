"""A run's folder: the configuration that it is bound to."""

import pathlib

from align_keras.config import changed_keys, load_config, save_config
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

PARAMS_FILE = "params.yaml"


def lock_config(config, directory):
    """Binds a folder to a configuration, or checks that it is bound to it.

    A folder is bound once it holds a checkpoint; before that, a run that failed
    on a mistake can be corrected.

    Args:
        config: `ExperimentConfig`.
        directory: `pathlib.Path`, the run's folder.

    Raises:
        InputError: if the configuration names no pairs, or the folder holds a
            run with other values; names them.
    """
    check_corpora(config)
    directory = pathlib.Path(directory)
    path = directory / PARAMS_FILE
    changed = {}
    if path.exists():
        changed = changed_keys(load_config(config_files=[path]), config)
    if changed and (directory / "checkpoints" / "checkpoint").exists():
        differences = ", ".join(
            f"{key} was {old!r} and is now {new!r}"
            for key, (old, new) in sorted(changed.items())
        )
        raise InputError(
            f"{directory} holds a run with another configuration: {differences}; give "
            f"another --model_dir, or --config_file {path} to go on with that run."
        )
    if changed:
        (directory / "vocabulary.txt").unlink(missing_ok=True)
    if changed or not path.exists():
        save_config(config, path)
        say(f"run folder {directory}")


def check_corpora(config):
    """Raises unless training and validation name pairs that can be there."""
    for section in ("train_data", "validation_data"):
        data = getattr(config.task, section)
        if data.corpus is None:
            raise InputError(
                f"task.{section}.corpus must name a corpus, received null; give an "
                "--experiment, a --config_file, or "
                f"--params_override task.{section}.corpus=icons."
            )
        if data.pairs is not None and not pathlib.Path(data.pairs).exists():
            raise InputError(
                f"task.{section}.pairs: no such file or folder: {data.pairs}; check "
                "the path."
            )
