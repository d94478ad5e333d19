"""Preprocessing of images and captions according to a Hugging Face folder."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from align_keras.images import crop_size_to_resize_size
from align_keras.presets.layout import CONFIG_FILE
from align_keras.text import load_vocabulary
from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

# Transformers 4 writes this file.
PREPROCESSOR_FILE = "preprocessor_config.json"
# Transformers 5 writes this file, with the settings under "image_processor".
# Transformers 4 writes a file of the same name without image settings.
PROCESSOR_FILE = "processor_config.json"
_NESTED = "image_processor"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
BERT_VOCABULARY_FILE = "vocab.txt"
# Tokens of a caption, in addition to the limit of the position embeddings.
SEQUENCE_LENGTH = 64
# Default of `transformers.AlignTextConfig`.
_MAX_POSITIONS = 512
# Classes whose defaults and order of operations this module implements.
_TYPES = (
    "EfficientNetImageProcessor",
    "EfficientNetImageProcessorFast",
    "EfficientNetImageProcessorPil",
)
# Settings that change the pixels. `read_image_processing` reads all of them.
_SETTINGS = (
    "crop_size",
    "do_center_crop",
    "do_normalize",
    "do_pad",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "include_top",
    "resample",
    "rescale_factor",
    "rescale_offset",
    "size",
)
# Settings that change no pixel of an RGB image whose size has a height and a width.
_WITHOUT_EFFECT = (
    "_processor_class",
    "_valid_kwargs_names",
    "_valid_processor_keys",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "pad_size",
    "processor_class",
    "return_tensors",
)
_BILINEAR = 2
# Maximum number of unknown settings in an error message.
_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True)
class ImageProcessing:
    """Settings of image preprocessing.

    Attributes:
        image_size: side of the center crop in pixels. Images are resized to
            346/289 of this size first.
        pixel_mean: float or list of three, the gray level that is scaled to 0.
        pixel_deviation: float or list of three > 0, the difference of gray levels that
            is scaled to 1.
    """

    image_size: int
    pixel_mean: float | list[float]
    pixel_deviation: float | list[float]


def read_image_processing(directory: str | os.PathLike) -> ImageProcessing:
    """Reads the preprocessing settings that transformers 4 or 5 saved in a folder.

    Raises:
        InputError: if the folder has no settings, if two of its files disagree, or if a
            setting isn't supported.
    """
    directory = pathlib.Path(directory)
    by_file = {}
    for name, settings in _saved_settings(directory).items():
        by_file[name] = parse_image_processing(settings, f"{directory / name}")
    if not by_file:
        raise InputError(
            f"{directory} must contain the image preprocessing of the model. Neither "
            f"{PREPROCESSOR_FILE} nor the {_NESTED} of {PROCESSOR_FILE} was found. "
            "Copy the file from the source of the model, or write it with "
            "AlignProcessor.save_pretrained of transformers."
        )
    first, *later = by_file.values()
    if any(processing != first for processing in later):
        descriptions = [f"{name} has {value}" for name, value in by_file.items()]
        raise InputError(
            f"The files in {directory} must describe the same image preprocessing. "
            f"Received: {', '.join(descriptions)}. Remove the file that is out of date."
        )
    return first


def _saved_settings(directory: pathlib.Path) -> dict[str, dict]:
    """Returns a dict from the name of each file with settings to its settings."""
    saved = {}
    nested: Any = read_json(directory / PROCESSOR_FILE).get(_NESTED)
    if nested is not None:
        saved[PROCESSOR_FILE] = nested
    settings = read_json(directory / PREPROCESSOR_FILE)
    if settings:
        saved[PREPROCESSOR_FILE] = settings
    return saved


def parse_image_processing(settings: dict, source: str) -> ImageProcessing:
    """Returns the image preprocessing of the JSON object of an image processor.

    Args:
        settings: the saved settings of an `EfficientNetImageProcessor`. Missing
            settings have the defaults of that class.
        source: the file, for messages.

    Raises:
        InputError: if a setting is unknown or isn't supported.
    """
    _refuse_other_settings(settings, source)
    return ImageProcessing(
        _read_image_size(settings, source), *read_pixel_scaling(settings, source)
    )


def _refuse_other_settings(settings: dict, source: str) -> None:
    """Raises if a setting would change the pixels and isn't supported."""
    kind = settings.get("image_processor_type")
    if kind is not None:
        check_choice(f"{source}: image_processor_type", kind, _TYPES)
    supported_names = {*_SETTINGS, *_WITHOUT_EFFECT}
    unknown = [
        f"{name!r:.60} {value!r:.40}"
        for name, value in settings.items()
        if name not in supported_names and value is not None
    ][:_MOST_NAMED]
    if unknown:
        raise InputError(
            f"{source} must contain only settings of EfficientNetImageProcessor. "
            f"Received: {', '.join(unknown)}. If such a setting doesn't change any "
            "pixel, remove it from the file."
        )


def _read_image_size(settings: dict, source: str) -> int:
    """Returns the side of the crop in pixels. Raises for an unsupported resizing."""
    crop = _side(settings.get("crop_size"))
    size = _side(settings.get("size"))
    if crop is not None:
        check_number(f"{source}'s crop_size", crop, 1, 8192, whole=True)
    is_supported = (
        settings.get("resample") == _BILINEAR
        and settings.get("do_resize", True)
        and settings.get("do_center_crop", False)
        and not settings.get("do_pad")
        and crop is not None
        and size == crop_size_to_resize_size(crop)
    )
    if not is_supported:
        names = (
            "do_resize",
            "size",
            "resample",
            "do_center_crop",
            "crop_size",
            "do_pad",
        )
        received = ", ".join(f"{name} {settings.get(name)!r:.60}" for name in names)
        raise InputError(
            f"{source} must resize bilinearly (do_resize true, resample 2) and crop "
            "289/346 of each side from the center (do_center_crop true) without "
            f"padding. Received: {received}. Correct the file if it doesn't belong to "
            "the model."
        )
    return crop


def read_pixel_scaling(settings: dict, source: str = "") -> tuple:
    """Returns the pixel mean and deviation in gray levels, floats or lists of three.

    Missing settings have the defaults of `transformers.EfficientNetImageProcessor`.
    """
    factor = 1.0
    offset = 0.0
    if settings.get("do_rescale", True):
        factor = settings.get("rescale_factor", 1 / 255)
        # Transformers subtracts 1 after multiplying by the factor.
        offset = -1.0 if settings.get("rescale_offset", False) else 0.0
    mean: Any = [0.0]
    deviation: Any = [1.0]
    standard = np.atleast_1d(settings.get("image_std", 0.5))
    if settings.get("do_normalize", True):
        mean = np.atleast_1d(settings.get("image_mean", 0.5))
        deviation = standard
    if settings.get("include_top", True):
        deviation = np.multiply(deviation, standard)
    # The numbers are rounded, since 1 / (1 / 127.5) may differ from 127.5 by a bit.
    means, deviations = (
        [round(level, 6) for level in levels.tolist()]
        for levels in np.broadcast_arrays(
            np.subtract(mean, offset) / factor, np.divide(deviation, factor)
        )
    )
    smallest = min(deviations, default=0.0)
    check_number(f"{source}'s deviation in gray levels", smallest, 1e-6, 1e12)
    if len(set(means)) == len(set(deviations)) == 1:
        return means[0], deviations[0]
    return means, deviations


def read_vocabulary(directory: pathlib.Path) -> list[str] | None:
    """Returns the tokens of vocab.txt or tokenizer.json.

    Returns None if both files are missing.
    """
    path = directory / BERT_VOCABULARY_FILE
    if path.exists():
        return load_vocabulary(path)
    path = directory / TOKENIZER_FILE
    if not path.exists():
        return None
    model = read_json(path).get("model")
    ids: Any = model.get("vocab") if isinstance(model, dict) else None
    numbers = list(ids.values()) if isinstance(ids, dict) else []
    # A gap would shift all later ids and so change the meaning of captions.
    is_whole = numbers and all(type(number) is int for number in numbers)
    if not is_whole or sorted(numbers) != list(range(len(numbers))):
        raise InputError(
            f"{path}: the ids in model.vocab must count from 0 without gaps. Download "
            f"the file again, or add a {BERT_VOCABULARY_FILE}."
        )
    return sorted(ids, key=ids.get)


def read_normalization(directory: pathlib.Path) -> str:
    """Returns the normalization of captions according to tokenizer_config.json."""
    path = directory / TOKENIZER_CONFIG_FILE
    config = read_json(path)
    lower = config.get("do_lower_case", True)
    strip = config.get("strip_accents")
    split = config.get("tokenize_chinese_chars", True)
    if not split or strip not in (None, lower):
        raise InputError(
            f"{path} must have tokenize_chinese_chars true, and strip_accents null or "
            "equal to do_lower_case. Received: "
            f"tokenize_chinese_chars={split}, strip_accents={strip} and "
            f"do_lower_case={lower}. Use a model with such a tokenizer."
        )
    return "bert_uncased" if lower else "bert_cased"


def read_sequence_length(directory: pathlib.Path) -> int:
    """Returns the number of tokens of a caption according to config.json."""
    text_config = read_json(directory / CONFIG_FILE).get("text_config") or {}
    positions = text_config.get("max_position_embeddings", _MAX_POSITIONS)
    return min(SEQUENCE_LENGTH, positions)


def _side(sides: Any) -> Any:
    """Returns the side of a square, or None if height and width differ."""
    if isinstance(sides, dict):
        height, width = sides.get("height"), sides.get("width")
        return height if height == width else None
    return sides
