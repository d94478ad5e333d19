"""A run's folder: the configuration that it is bound to."""

import pathlib

from align_keras.config import changed_keys, load_config, save_config
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

PARAMS_FILE = "params.yaml"


def lock_config(config, directory):
    """Saves the configuration in a new folder, or checks it against the saved.

    Args:
        config: `ExperimentConfig`.
        directory: `pathlib.Path`, the run's folder.

    Raises:
        InputError: if the folder holds a run with other values; names them.
    """
    path = pathlib.Path(directory) / PARAMS_FILE
    if not path.exists():
        save_config(config, path)
        say(f"run folder {directory}")
        return
    changed = changed_keys(load_config(config_files=[path]), config)
    if changed:
        differences = ", ".join(
            f"{key} was {old!r} and is now {new!r}"
            for key, (old, new) in sorted(changed.items())
        )
        raise InputError(
            f"{directory} holds a run with another configuration: {differences}; give "
            f"another --model_dir, or --config_file {path} to go on with that run."
        )
