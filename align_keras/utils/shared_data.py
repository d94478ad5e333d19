"""Locations of the package data: experiments and a trained model."""

import importlib.util
import pathlib

from align_keras.utils.errors import InputError

# Folder that contains the package: a clone of the repository, or site-packages.
CLONE_FOLDER = pathlib.Path(__file__).resolve().parents[2]
SHIPPED_MODELS = ("align_small_en",)


def shared_folder(package: str, name: str = ".") -> pathlib.Path | None:
    """Returns the path of a folder of package data, or None if it doesn't exist.

    setup.cfg installs the folder `experiments` of the repository as the package
    `align_keras.experiments`. A clone that is on the path of Python without an
    installation has no such package, so its own folder is used.

    Args:
        package: `"experiments"` or `"saved_models"`.
        name: name of a folder in the package.
    """
    if (CLONE_FOLDER / "setup.cfg").is_file():
        folder = CLONE_FOLDER / package / name
    else:
        spec = importlib.util.find_spec(f"align_keras.{package}")
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = pathlib.Path(spec.submodule_search_locations[0], name)
    return folder if folder.is_dir() else None


def find_shipped_model(name: str) -> pathlib.Path:
    """Returns the folder of one of `SHIPPED_MODELS`.

    Raises:
        InputError: if it isn't installed.
    """
    folder = shared_folder("saved_models", name)
    if folder is None:
        raise InputError(
            f"The model {name} is part of align-keras but isn't installed. Install "
            "align-keras again, or pass the folder of another model."
        )
    return folder
