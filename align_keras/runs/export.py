"""A trained model as others run it, in one folder with its card."""

import importlib.util
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from align_keras.embedders.locations import locate_model
from align_keras.export import QUANTIZATIONS, WEIGHTS
from align_keras.runs.about_run import about_run, read_evaluation
from align_keras.runs.export_litert import export_litert
from align_keras.runs.export_web import write_web
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_folder, new_folder


class Format(NamedTuple):
    """A form in which a model is written: what it is for, and what it needs."""

    help: str
    # Of this package, with the packages that it brings.
    extra: str | None = None
    packages: tuple[str, ...] = ()
    # Where its card says that inputs and outputs are told; None for signatures.json.
    described: str | None = None


FORMATS = {
    "saved_model": Format("SavedModels, for TensorFlow Serving"),
    "litert": Format(
        "LiteRT files, for phones and boards",
        "litert",
        ("ai_edge_litert",),
        "`image.tflite` and `text.tflite` tell themselves what they take and give "
        "(`unzip -p image.tflite metadata.json`); `figures.json`, if it is there, what "
        "they keep.",
    ),
    "web": Format(
        "a static page that searches images",
        "litert",
        ("ai_edge_litert",),
        "`README.txt` tells how the page is served.",
    ),
    "onnx": Format(
        "ONNX files, for other runtimes",
        "onnx",
        ("tf2onnx", "onnxruntime"),
        "`image.onnx` and `text.onnx` tell in their metadata properties what they take "
        "and give.",
    ),
}
_TOWERS = ("litert", "web")
# The formats that an option is for; others would ignore it.
OPTIONS = {
    "weights": ("saved_model",),
    "quantize": _TOWERS,
    "images": _TOWERS,
    "image_column": _TOWERS,
    "caption_column": _TOWERS,
    "encoding": _TOWERS,
    "data": ("litert",),
    "data_root": ("litert",),
    "resizable": ("litert",),
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
    evaluation: Sequence[str] = (),
    title: str | None = None,
    litert_js: str | None = None,
) -> None:
    """Writes a model for TensorFlow Serving, for phones, for browsers or as ONNX.

    What `align-keras export` does. A card, `README.md`, lies beside each format.

    Args:
        model: `ALIGN` with a vocabulary, or a name that `align_keras.load_model` can
            open by Keras: a run folder, a preset or Hugging Face folder,
            `"align_small_en"` or `"hf://user/model"`.
        to: the folder to write: new or empty.
        format: `"saved_model"`, for TensorFlow Serving; `"litert"`, for phones;
            `"web"`, a page that searches images; or `"onnx"`.
        weights: `"bfloat16"` or `"float16"` stores SavedModels in half the room.
        quantize: of LiteRT towers and of a page's: `"none"`, `"float16"`,
            `"weight-int8"`, `"dynamic-int8"` or `"int8"`.
        images: a table or folder of captioned images or the name of a set, by which
            `"litert"` calibrates int8, and which `"web"` shows, not the run's index.
        image_column: of the table of `images` or `data`; likewise the next two.
        caption_column: str.
        encoding: str.
        data: a set on which the recall of LiteRT towers is measured.
        data_root: the folder of the named sets, `"data"` by default.
        resizable: LiteRT towers of any number and size of images, and of captions.
        license: the terms of the weights, for the files and the card.
        evaluation: what `align-keras evaluate --json` printed of it, for the card.
        title: a page's heading.
        litert_js: a node_modules folder with `@litertjs/core`, copied beside a page.

    Raises:
        InputError: if an option doesn't fit the format, something isn't installed, the
            model can't be exported, or `to` holds something.

    References:
        Jia et al. 2021, section 4.1 (the two encoders) and 10 (what a card must say).

    Example:

    ```python
    align_keras.export_model("saved_models/stamps", "served", weights="bfloat16")
    ```
    """
    options = {
        name: value
        for name, value in locals().items()
        if name in OPTIONS and value is not None
    }
    target = _checked(model, to, format, options)
    is_path = isinstance(model, str | os.PathLike)
    measured = [read_evaluation(path, model) for path in evaluation if is_path]
    align = _open(model, format)
    with atomic_folder(target) as folder:
        WRITERS[format](align, folder, model, **options)
        _write_card(align, folder, model, format, options, measured)


def _checked(
    model: Any, to: str | os.PathLike, format: str, options: dict[str, Any]
) -> pathlib.Path:
    """Returns the folder to write; raises before TensorFlow is imported."""
    check_choice("format", format, FORMATS)
    for name, value in options.items():
        formats = OPTIONS[name]
        if format not in formats:
            raise InputError(
                f"{name} must be left out of the format {format}, received {value!r}; "
                f"it is for {' and '.join(formats)}."
            )
        known = {"weights": WEIGHTS, "quantize": QUANTIZATIONS}.get(name, (value,))
        check_choice(name, value, known)
    _check_table_options(options)
    _check_installed(format, options)
    if isinstance(model, str | os.PathLike):
        if "keras" not in locate_model(model).runtimes:
            raise InputError(
                "model must be a Keras model, of which an export is made. Received: "
                f"the export {model}. Name the run folder that it came from."
            )
    return new_folder(to, "to")


def _check_table_options(options: dict[str, Any]) -> None:
    """Raises for the options of a table or folder where there is none."""
    named = [options[name] for name in ("images", "data") if name in options]
    for name in ("image_column", "caption_column", "encoding"):
        is_for = os.path.exists if name == "encoding" else os.path.isfile
        if name in options and not any(map(is_for, named)):
            raise InputError(
                f"{name} must be of a table of yours, received {options[name]!r} with "
                f"{' and '.join(named) or 'none'}; leave it out, or name the table by "
                "`images`."
            )


def _check_installed(format: str, options: dict[str, Any]) -> None:
    extra, packages = FORMATS[format].extra, FORMATS[format].packages
    if options.get("quantize", "none") != "none":
        packages += ("litert_quantizer",)
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"`format` {format} needs {name}, which isn't installed; run "
                f'`pip install "align-keras[{extra}]"`.'
            )


def _open(model: Any, format: str) -> Any:
    from align_keras.export.saved_model import check_finite_weights
    from align_keras.models import ALIGN

    align = model
    if not isinstance(model, ALIGN):
        # Converters know no mixed precision; the variables are float32 in any case.
        dtype = None if format == "saved_model" else "float32"
        location = locate_model(model)
        align = ALIGN.from_preset(location.folder or location.name, dtype=dtype)
    if align.vocabulary is None:
        raise InputError(
            f"model must have a vocabulary to take captions, received {model} without "
            "one; add its vocab.txt."
        )
    check_finite_weights(align)
    return align


def _write_card(align, folder, model, format, options, measured):
    from align_keras.export.model_card import SIGNATURES, model_card

    quantize = options.get("quantize", "none")
    is_path = isinstance(model, str | os.PathLike)
    card = model_card(
        align,
        weights=options.get("weights", None if quantize == "none" else quantize),
        license=options.get("license"),
        described=FORMATS[format].described or SIGNATURES,
        measured=measured,
        **(about_run(model) if is_path else {}),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_saved_model(align, folder, model, weights=None):
    from align_keras.export.saved_model import write_saved_models
    from align_keras.export.serving_files import write_serving_files

    write_saved_models(align, folder, weights=weights)
    write_serving_files(folder)


def _write_onnx(align, folder, model, license=None):
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
