"""Presets of KerasHub's dual encoders."""

import pathlib

from align_keras.presets.layout import CONFIG_FILE
from align_keras.utils.files import read_json

_CLASSES = ("keras_hub>CLIPBackbone", "keras_hub>SigLIPBackbone")


def is_keras_hub_preset(folder: pathlib.Path) -> bool:
    """Returns True for the folder of a KerasHub preset of CLIP or SigLIP."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    return read_json(folder / CONFIG_FILE).get("registered_name") in _CLASSES
