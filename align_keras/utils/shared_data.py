"""Folders beside the package: experiments and the model that is shipped with it."""

import pathlib
import site
import sysconfig

from align_keras.utils.errors import InputError

# Folder that contains the package: a clone of the repository, or site-packages.
CLONE_FOLDER = pathlib.Path(__file__).resolve().parents[2]
SHIPPED_MODELS = ("align_small_en",)


def shared_folder(name: str) -> pathlib.Path | None:
    """Returns a folder of the clone, or one that was installed with the package."""
    folders = [
        pathlib.Path(root) / "share" / "align_keras"
        # Folders of setup.cfg's data_files.
        for root in (sysconfig.get_path("data"), site.getuserbase())
    ]
    if (CLONE_FOLDER / "setup.cfg").is_file():
        folders.insert(0, CLONE_FOLDER)
    return next((root / name for root in folders if (root / name).is_dir()), None)


def find_shipped_model(name: str) -> pathlib.Path:
    """The folder of a model that comes with the package, or InputError."""
    if name not in SHIPPED_MODELS:
        raise InputError(
            f"name must be one of {', '.join(SHIPPED_MODELS)}, received {name!r}; give "
            "the folder of another model in its place."
        )
    folder = shared_folder(f"saved_models/{name}")
    if folder is None:
        raise InputError(
            f"the model {name} isn't installed, though it comes with the package; "
            "install align-keras again, or give the folder of another model."
        )
    return folder
