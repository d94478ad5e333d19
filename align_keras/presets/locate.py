"""Location of the files of a preset."""

import os
import pathlib

from align_keras.presets.hub import download
from align_keras.presets.keras_hub_layout import is_keras_hub_preset
from align_keras.presets.layout import CONFIG_FILE
from align_keras.presets.open_clip_layout import is_open_clip
from align_keras.presets.sizes import preset_names
from align_keras.utils.addresses import is_hub_name
from align_keras.utils.arguments import did_you_mean
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json
from align_keras.utils.shared_data import SHIPPED_MODELS, find_shipped_model


def locate_preset(
    preset: str | os.PathLike,
    revision: str | None = None,
    token: str | None = None,
    load_weights: bool = True,
) -> pathlib.Path | None:
    """Returns the folder or the `.keras` file of a preset.

    A model of a hub is downloaded on its first use.

    Args:
        preset: name, path or address, as for `ALIGN.from_preset`.
        revision: branch, tag or commit of a model on the Hugging Face Hub.
        token: token of the Hugging Face Hub.
        load_weights: False leaves out the weights of a download.

    Returns:
        `pathlib.Path`, or None for the name of a preset with random weights.

    Raises:
        InputError: if there is no such preset, or if it is an export.
    """
    name = str(preset)
    if name in preset_names():
        return None
    if name in SHIPPED_MODELS:
        return pathlib.Path(find_shipped_model(name))
    if is_hub_name(name):
        folder = download(name, revision, token, weights=load_weights)
        _check_is_align(name, folder)
        return folder
    path = pathlib.Path(preset)
    if path.is_file() and is_keras_file(path):
        return path
    if not path.is_dir():
        names = [*SHIPPED_MODELS, *preset_names()]
        remedy = did_you_mean(name, names)
        remedy = remedy or f"The names of presets are {', '.join(names)}."
        raise InputError(
            "preset must be the name of a preset, or the path of a folder or of a "
            f".keras file. Received: preset={preset}. {remedy}"
        )
    if (path / "saved_model.pb").exists() or (path / "align").is_dir():
        raise InputError(
            "preset must be a folder with weights of Keras. Received: the export "
            f"{path}, which can't be converted to an ALIGN. Compute embeddings "
            f'with align_keras.load_model("{path}"), or open the run folder or '
            "the preset that was exported."
        )
    _check_is_align(name, path)
    if not (path / CONFIG_FILE).exists():
        raise InputError(
            f"{path} must be a preset or a finished run. Received: a folder without "
            f"{CONFIG_FILE}. Finish the run with the command that started it."
        )
    return path


def _check_is_align(name: str, folder: pathlib.Path) -> None:
    kind = "open_clip" if is_open_clip(folder) else "KerasHub"
    if is_open_clip(folder) or is_keras_hub_preset(folder):
        raise InputError(
            f"preset must be an ALIGN with weights of Keras. Received: the {kind} "
            f"model {name}, which embeds images and texts but cannot be trained or "
            "exported. Train a small model with it by `align-keras finetune --teacher "
            f"{name}`, and export that model."
        )


def is_keras_file(path: pathlib.Path) -> bool:
    """Returns True for the name of a file that `keras.Model.save` writes."""
    return path.suffix == ".keras"


def is_hugging_face_folder(path: pathlib.Path) -> bool:
    """Returns True for a folder whose configuration is that of transformers."""
    return "model_type" in read_json(path / CONFIG_FILE)
