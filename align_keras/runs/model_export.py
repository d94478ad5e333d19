"""Export of a trained model to a folder with a model card."""

import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from align_keras.embedders.locations import locate_model
from align_keras.export import QUANTIZATIONS, WEB_QUANTIZATION, WEIGHTS
from align_keras.runs.card_facts import about_run, read_evaluation
from align_keras.runs.export_litert import export_litert
from align_keras.runs.export_web import write_web
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import (
    TENSORFLOW_EXTRA,
    InputError,
    MissingExtraError,
    check_tensorflow,
)
from align_keras.utils.files import atomic_folder, new_folder


class Format(NamedTuple):
    """Format of an export.

    Attributes:
        help: description for the command line.
        extra: extra of this package that the format needs, or None.
        packages: tuple of str, packages of the extra.
        described: text of the model card about the file that describes inputs and
            outputs, or None if signatures.json describes them.
    """

    help: str
    extra: str | None = None
    packages: tuple[str, ...] = ()
    described: str | None = None


EXPORT_FORMATS = {
    "saved_model": Format("SavedModels, for TensorFlow Serving"),
    "litert": Format(
        "LiteRT files, for phones and boards",
        "litert",
        ("ai_edge_litert",),
        "The metadata of `image.tflite` and `text.tflite` describes their inputs and "
        "outputs (`unzip -p image.tflite metadata.json`). `figures.json`, if present, "
        "has the accuracy of the quantized encoders.",
    ),
    "web": Format(
        "a static page that searches images",
        "litert",
        ("ai_edge_litert",),
        "`README.txt` explains how to serve the page.",
    ),
    "onnx": Format(
        "ONNX files, for other runtimes",
        "onnx",
        ("tf2onnx", "onnxruntime"),
        "The metadata properties of `image.onnx` and `text.onnx` describe their inputs "
        "and outputs.",
    ),
}
_TOWERS = ("litert", "web")
# Option → formats to which it applies. Other formats reject the option.
FORMATS_OF_OPTION = {
    "weights": ("saved_model",),
    "quantize": _TOWERS,
    "images": _TOWERS,
    "image_column": _TOWERS,
    "caption_column": _TOWERS,
    "encoding": _TOWERS,
    "data": ("litert",),
    "data_root": ("litert",),
    "resizable": ("litert",),
    "dimensions": ("saved_model", "litert", "onnx"),
    "license": ("litert", "web", "onnx"),
    "title": ("web",),
    "litert_js": ("web",),
}


def export_model(
    model: Any,
    to: str | os.PathLike,
    format: str = "saved_model",
    *,
    weights: str | None = None,
    quantize: str | None = None,
    images: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    encoding: str | None = None,
    data: str | None = None,
    data_root: str | None = None,
    resizable: bool | None = None,
    license: str | None = None,
    evaluation: Sequence[str | os.PathLike | Mapping[str, Any]] = (),
    title: str | None = None,
    litert_js: str | None = None,
    dimensions: int | None = None,
) -> None:
    """Exports a model for TensorFlow Serving, phones, browsers or ONNX Runtime.

    The command `align-keras export` calls this function. The folder also gets a model
    card, `README.md`.

    Args:
        model: `ALIGN` with a vocabulary, or the name of a Keras model for
            `align_keras.load_model`: a run folder, a preset or Hugging Face folder,
            `"align_small_en"` or `"hf://user/model"`.
        to: folder to write, which must be new or empty.
        format: `"saved_model"` for TensorFlow Serving, `"litert"` for phones, `"web"`
            for a page that searches images, or `"onnx"`.
        weights: `"bfloat16"` or `"float16"` stores SavedModels in half the size.
        quantize: quantization of LiteRT files and of a page: `"none"`, `"float16"`,
            `"weight-int8"`, `"dynamic-int8"` or `"int8"`. The default is
            `"weight-int8"` for a page and `"none"` for LiteRT files.
        images: table or folder of captioned images, or the name of a data set. The
            format `"litert"` calibrates int8 with them. The format `"web"` shows them
            instead of the images of the run's index.
        image_column: column of the table of `images` or `data`.
        caption_column: column of the table of `images` or `data`.
        encoding: encoding of the table of `images` or `data`.
        data: data set on which the recall of LiteRT files is measured.
        data_root: folder of the paper's data sets, `"data"` by default.
        resizable: True to write a LiteRT image encoder that accepts any number of
            images of any size.
        license: terms of the weights, for the files and the card.
        evaluation: results of `align_keras.evaluate` for this model, or files with the
            output of `align-keras evaluate --json`, for the model card.
        title: heading of a page.
        litert_js: node_modules folder with `@litertjs/core`, which is copied to a page.
        dimensions: number of first components of the embeddings that the exported model
            computes, scaled to unit length.

    Raises:
        InputError: if an option doesn't fit the format, a package isn't installed, the
            model can't be exported, or `to` isn't empty.

    References:
        Jia et al. 2021, section 4.1 (the two encoders) and 10 (the model card).

    Example:

    ```python
    export_model("saved_models/mine", "served", weights="bfloat16")
    align_keras.load_model("served").runtime  # 'saved_model'
    ```
    """
    if format == "web" and quantize is None:
        quantize = WEB_QUANTIZATION
    all_options = {
        "weights": weights,
        "quantize": quantize,
        "images": images,
        "image_column": image_column,
        "caption_column": caption_column,
        "encoding": encoding,
        "data": data,
        "data_root": data_root,
        "resizable": resizable,
        "license": license,
        "title": title,
        "litert_js": litert_js,
    }
    options = {name: value for name, value in all_options.items() if value is not None}
    checked_options: dict[str, Any] = dict(options)
    if dimensions is not None:
        checked_options["dimensions"] = dimensions
    target = _checked(model, to, format, checked_options)
    measured = [read_evaluation(result, model) for result in evaluation]
    align = _open(model, format)
    if dimensions is not None:
        from align_keras.models.truncated_model import truncate_model

        align = truncate_model(align, dimensions)
    with atomic_folder(target) as folder:
        WRITERS[format](align, folder, model, **options)
        _write_card(align, folder, model, format, options, measured)


def _checked(
    model: Any, to: str | os.PathLike, format: str, options: dict[str, Any]
) -> pathlib.Path:
    """Checks the arguments before TensorFlow is imported. Returns the export folder."""
    check_choice("format", format, EXPORT_FORMATS)
    for name, value in options.items():
        formats = FORMATS_OF_OPTION[name]
        if format not in formats:
            raise InputError(
                f"{name} is an option of the format {' and '.join(formats)}. Received: "
                f"{name}={value!r} with the format {format}. Leave it out."
            )
    if "weights" in options:
        check_choice("weights", options["weights"], WEIGHTS)
    if "quantize" in options:
        check_choice("quantize", options["quantize"], QUANTIZATIONS)
    if options.get("quantize") == "int8" and (
        format == "web" or "images" not in options
    ):
        raise InputError(
            "quantize must not be int8 for a page, or without `images` that calibrate "
            "it. Received: quantize='int8'. Choose dynamic-int8, which is as small."
        )
    if isinstance(model, str | os.PathLike):
        locate_model(model)
    check_format_packages(format, options)
    return new_folder(to, "to")


def check_format_packages(format: str, options: dict[str, Any]) -> None:
    """Raises InputError if a package that a format needs is not installed."""
    check_tensorflow(f"The format {format}")
    extra = EXPORT_FORMATS[format].extra or TENSORFLOW_EXTRA
    packages = EXPORT_FORMATS[format].packages
    if options.get("quantize", "none") != "none":
        packages += ("litert_quantizer",)
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"The format {format} needs {name}", extra)


def _open(model: Any, format: str) -> Any:
    """Opens a model, in float32 if the format needs it, and merges its LoRA."""
    from align_keras.export.saved_model import check_finite_weights
    from align_keras.models import ALIGN

    align = model
    if not isinstance(model, ALIGN):
        # Converters don't support mixed precision. The variables are always float32.
        location = locate_model(model)
        keeps_dtype = format == "saved_model" or location.folder.is_file()
        dtype = None if keeps_dtype else "float32"
        align = ALIGN.from_preset(location.preset, dtype=dtype)
    check_finite_weights(align)
    return align.without_lora()


def _write_card(
    align: Any,
    folder: pathlib.Path,
    model: Any,
    format: str,
    options: dict[str, Any],
    measured: list[dict],
) -> None:
    """Writes the model card."""
    from align_keras.export.model_card import SIGNATURES, model_card

    quantize = options.get("quantize", "none")
    is_path = isinstance(model, str | os.PathLike)
    card = model_card(
        align,
        weights=options.get("weights", None if quantize == "none" else quantize),
        license=options.get("license"),
        described=EXPORT_FORMATS[format].described or SIGNATURES,
        measured=measured,
        **(about_run(model) if is_path else {}),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_saved_model(
    align: Any, folder: pathlib.Path, model: Any, weights: str | None = None
) -> None:
    from align_keras.export.saved_model import write_saved_models
    from align_keras.export.serving_files import write_serving_files

    write_saved_models(align, folder, weights=weights)
    write_serving_files(folder)


def _write_onnx(
    align: Any, folder: pathlib.Path, model: Any, license: str | None = None
) -> None:
    from align_keras.export.onnx import image_onnx, text_onnx

    for name, convert in (("image", image_onnx), ("text", text_onnx)):
        (folder / f"{name}.onnx").write_bytes(convert(align, license=license))


WRITERS: dict[str, Callable] = {
    "saved_model": _write_saved_model,
    "litert": lambda align, folder, _, **options: export_litert(
        align, folder, **options
    ),
    "web": write_web,
    "onnx": _write_onnx,
}
