"""Conversion of ALIGN from and to a folder of transformers (Hugging Face)."""

import json
import math
import os
import pathlib
from typing import Any

import keras
import numpy as np

from align_keras.images import crop_size_to_resize_size
from align_keras.models.conversion.bert import bert_links
from align_keras.models.conversion.efficientnet import HUGGING_FACE, efficientnet_links
from align_keras.models.conversion.hugging_face_config import (
    has_residual_stage_start,
    read_sizes,
    write_config,
)
from align_keras.models.conversion.links import (
    LOGARITHM,
    TORCH_DENSE,
    Link,
    export_links,
    load_links,
)
from align_keras.models.conversion.tensor_files import (
    SAFETENSORS_FILE,
    SafetensorsFolder,
)
from align_keras.models.image_encoder import ImageEncoder
from align_keras.models.text_encoder import TextEncoder
from align_keras.presets.hugging_face_processing import (
    BERT_VOCABULARY_FILE,
    PREPROCESSOR_FILE,
    TOKENIZER_CONFIG_FILE,
    read_image_processing,
)
from align_keras.presets.layout import CONFIG_FILE
from align_keras.presets.tower_costs import check_parameters
from align_keras.text import save_vocabulary
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_folder, read_json

# Suffixes of tensors that are counters and constants, not weights.
IGNORED = ("num_batches_tracked", "position_ids")


def from_hugging_face(
    cls: type[keras.Model], directory: pathlib.Path, load_weights: bool, parts: dict
) -> keras.Model:
    """Builds a backbone from a folder with the files of kakaobrain/align-base.

    Args:
        cls: `ALIGNBackbone`.
        directory: path of the folder.
        load_weights: False builds the model with random weights.
        parts: arguments of both encoders and of the backbone that override the folder.
    """
    image, text = read_sizes(
        read_json(directory / CONFIG_FILE),
        read_image_processing(directory),
        str(directory),
    )
    tensors = SafetensorsFolder(directory) if load_weights else {}
    if load_weights:
        numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
        check_parameters(image, text, 2 * numbers, directory / SAFETENSORS_FILE)
    backbone = cls(
        ImageEncoder(**{**image, **parts["image_encoder"]}),
        TextEncoder(**{**text, **parts["text_encoder"]}),
        **parts["backbone"],
    )
    if has_residual_stage_start(backbone.image_encoder):
        raise InputError(
            f"{directory}: config.json must have a vision_config.width_coefficient "
            "that gives each stage another width than the stage before it. Received: "
            f"{image['width_coefficient']}. With equal widths, transformers omits a "
            "residual connection of EfficientNet, so embeddings would differ. Use "
            "another model."
        )
    if load_weights:
        ignored = [name for name in tensors if name.endswith(IGNORED)]
        load_links(align_links(backbone), tensors, str(directory), ignored)
    return backbone


def align_links(model: keras.Model) -> list[Link]:
    """Returns the links of all variables of a model to tensors of transformers."""
    projection = model.text_encoder.get_layer("projection")
    return [
        *efficientnet_links(model.image_encoder, HUGGING_FACE, "vision_model."),
        *bert_links(model.text_encoder, "text_model."),
        Link(projection.kernel, "text_projection.weight", TORCH_DENSE),
        Link(projection.bias, "text_projection.bias"),
        Link(model.temperature_layer.log_temperature, "temperature", LOGARITHM),
    ]


def to_hugging_face(model: keras.Model, directory: str | os.PathLike) -> None:
    """Writes a folder that `AlignModel` and `AlignProcessor` of transformers load."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    model = model.without_lora()
    contents = {CONFIG_FILE: write_config(model), **preprocessing_files(model)}
    tensors = export_links(align_links(model))
    for name in list(tensors):
        if name.endswith("running_mean"):
            counter = name.removesuffix("running_mean") + "num_batches_tracked"
            tensors[counter] = np.zeros((), "int64")
    with atomic_folder(directory) as folder:
        for name, content in contents.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        if model.vocabulary is not None:
            save_vocabulary(model.vocabulary, folder / BERT_VOCABULARY_FILE)
        try:
            save_file(tensors, folder / SAFETENSORS_FILE, metadata={"format": "pt"})
        # safetensors wraps errors of the operating system in a `SafetensorError`.
        except SafetensorError as error:
            raise OSError(f"{folder / SAFETENSORS_FILE}: {error}") from None


def preprocessing_files(model: keras.Model) -> dict[str, dict]:
    """Returns a dict from the name of each processor file to its content."""
    crop = model.image_size
    size = crop_size_to_resize_size(crop)
    return {
        PREPROCESSOR_FILE: {
            "image_processor_type": "EfficientNetImageProcessor",
            "processor_class": "AlignProcessor",
            "do_resize": True,
            "size": {"height": size, "width": size},
            "resample": 2,
            "do_center_crop": True,
            "crop_size": {"height": crop, "width": crop},
            **_scaling(model.image_encoder),
            "include_top": False,
        },
        TOKENIZER_CONFIG_FILE: {
            "tokenizer_class": "BertTokenizer",
            "processor_class": "AlignProcessor",
            "do_lower_case": model.normalization == "bert_uncased",
            "model_max_length": model.text_encoder.sequence_length,
        },
    }


def _scaling(image_encoder: keras.Model) -> dict[str, Any]:
    """Returns the settings of the processor that scale gray levels."""
    mean, deviation = image_encoder.pixel_mean, image_encoder.pixel_deviation
    # These are the settings of kakaobrain/align-base.
    if mean == deviation == 127.5:
        return {
            "do_rescale": True,
            "rescale_factor": 1 / 127.5,
            "rescale_offset": True,
            "do_normalize": False,
        }
    return {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "rescale_offset": False,
        "do_normalize": True,
        "image_mean": [level / 255 for level in np.broadcast_to(mean, 3).tolist()],
        "image_std": [level / 255 for level in np.broadcast_to(deviation, 3).tolist()],
    }
