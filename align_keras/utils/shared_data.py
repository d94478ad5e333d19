"""Locations of the data files of the distribution: experiments and a trained model."""

import pathlib
import site
import sysconfig

from align_keras.utils.errors import InputError

# Folder that contains the package: a clone of the repository, or site-packages.
CLONE_FOLDER = pathlib.Path(__file__).resolve().parents[2]
SHIPPED_MODELS = ("align_small_en",)


def shared_folder(name: str) -> pathlib.Path | None:
    """Returns the path of a data folder, or None if it doesn't exist.

    Args:
        name: str, path relative to the root of the repository, such as "experiments".

    Returns:
        `pathlib.Path` in the clone of the repository or, if the package is installed,
        in the folders into which setup.cfg installs `data_files`.
    """
    folders = [
        pathlib.Path(root) / "share" / "align_keras"
        for root in (sysconfig.get_path("data"), site.getuserbase())
    ]
    if (CLONE_FOLDER / "setup.cfg").is_file():
        folders.insert(0, CLONE_FOLDER)
    return next((root / name for root in folders if (root / name).is_dir()), None)


def find_shipped_model(name: str) -> pathlib.Path:
    """Returns the folder of a model that is part of the distribution.

    Raises:
        InputError: if no such model exists, or if it isn't installed.
    """
    if name not in SHIPPED_MODELS:
        raise InputError(
            f"name must be one of {', '.join(SHIPPED_MODELS)}. Received: "
            f"name={name!r}. Pass the folder of another model instead."
        )
    folder = shared_folder(f"saved_models/{name}")
    if folder is None:
        raise InputError(
            f"The model {name} is part of align-keras but isn't installed. Install "
            "align-keras again, or pass the folder of another model."
        )
    return folder
