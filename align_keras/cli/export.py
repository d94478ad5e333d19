"""`align-keras export`: a trained model as others run it."""

import importlib.util
import os
import pathlib

from align_keras.cli.convert import check_target
from align_keras.runs.about_run import about_run, read_evaluations
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_folder
from align_keras.utils.progress import say

FORMATS = ("saved_model", "litert", "web", "onnx")
WEIGHTS = ("bfloat16", "float16")
QUANTIZATIONS = ("none", "float16", "weight-int8", "dynamic-int8", "int8")
# What only some formats take; the others would ignore it.
_ONLY_FOR = {
    "weights": ("saved_model",),
    "quantize": ("litert", "web"),
    "pictures": ("litert", "web"),
    "image_column": ("litert", "web"),
    "caption_column": ("litert", "web"),
    "encoding": ("litert", "web"),
    "data": ("litert",),
    "resizable": ("litert",),
    "licence": ("litert", "web", "onnx"),
    "title": ("web",),
    "litert_js": ("web",),
}
# What must be installed beside TensorFlow, and the extra that brings it.
_NEEDED = {
    "saved_model": (None, ()),
    "litert": ("litert", ("ai_edge_litert",)),
    "web": ("litert", ("ai_edge_litert",)),
    "onnx": ("onnx", ("tf2onnx", "onnxruntime")),
}
# Where it's said what an export takes and gives, for its card.
_DESCRIBED = {
    "litert": "`image.tflite` and `text.tflite` tell themselves what they take and "
    "give (`unzip -p image.tflite metadata.json`); `figures.json`, if it is there, "
    "what they keep.",
    "web": "`README.txt` tells how the page is served.",
    "onnx": "`image.onnx` and `text.onnx` tell in their metadata properties what they "
    "take and give.",
}


def add_arguments(parser):
    """Adds the command's arguments to its parser."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="M",
        help="a run folder, a Hugging Face folder or hf://user/model",
    )
    parser.add_argument(
        "--to", required=True, metavar="DIR", help="the folder to write; new or empty"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="saved_model",
        help="saved_model, for TensorFlow Serving (default); litert, for phones; web, "
        "a static page that searches; onnx",
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, help="stored in half the room (saved_model)"
    )
    parser.add_argument(
        "--quantize", choices=QUANTIZATIONS, help="of the towers (litert, web)"
    )
    parser.add_argument(
        "--pictures",
        metavar="PATH",
        help="a table or folder of captioned pictures, by which litert calibrates int8 "
        "(or a set as clipart), and which web shows in place of the run's own index",
    )
    for name in ("image", "caption"):
        parser.add_argument(
            f"--{name}_column",
            metavar="NAME",
            help="of the table of --pictures or --data",
        )
    parser.add_argument("--encoding", metavar="NAME", help="of that table or folder")
    parser.add_argument(
        "--data",
        metavar="D",
        help="a set as evaluate --protocol retrieval takes it, on which the recall of "
        "the quantised tower is measured (litert)",
    )
    parser.add_argument(
        "--data_root", default="data", metavar="DIR", help="where named sets lie"
    )
    parser.add_argument(
        "--resizable",
        action="store_true",
        default=None,
        help="for pictures of any number and size, and any number of captions (litert)",
    )
    parser.add_argument(
        "--licence",
        metavar="TEXT",
        help="of the model, kept in its files (litert, web, onnx)",
    )
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="FILE",
        help="what evaluate --json printed of this model, for the card, with the "
        "metrics of groups by --slice_by; may be repeated",
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page (web)")
    parser.add_argument(
        "--litert_js",
        metavar="DIR",
        help="a node_modules folder with @litertjs/core, copied beside the page (web)",
    )


def run(arguments):
    """Runs the command; returns its exit code."""
    target = check_arguments(arguments)
    measured = read_evaluations(arguments.evaluation, arguments.model)
    from align_keras.export.saved_model import check_finite_weights
    from align_keras.models import ALIGN

    # Converters know no mixed precision; the variables are float32 in any case.
    dtype = None if arguments.format == "saved_model" else "float32"
    align = ALIGN.from_preset(arguments.model, dtype=dtype)
    if align.vocabulary is None:
        raise InputError(
            f"--model must have a vocabulary to take captions, received "
            f"{arguments.model} without one; add its vocab.txt."
        )
    check_finite_weights(align)
    with atomic_folder(target) as folder:
        _WRITERS[arguments.format](align, folder, arguments)
        _write_card(align, folder, arguments, measured)
    say(f"wrote {arguments.to}")
    return 0


def check_arguments(arguments):
    """Returns the folder to write; raises before TensorFlow is imported."""
    for name, formats in _ONLY_FOR.items():
        value = getattr(arguments, name)
        if value is not None and arguments.format not in formats:
            raise InputError(
                f"--{name} is for --format {' or '.join(formats)}, received {value!r} "
                f"with {arguments.format}; leave it out."
            )
    _check_table_options(arguments)
    _check_installed(arguments)
    target = check_target(arguments.to)
    folder = pathlib.Path(arguments.model)
    if (folder / "saved_model.pb").exists() or (folder / "align").is_dir():
        raise InputError(
            f"--model must be what an export is made of, received the export {folder}; "
            "name the run folder it came from."
        )
    is_hub = arguments.model.startswith("hf://")
    if not is_hub and not (folder / "config.json").exists():
        raise InputError(
            f"--model must be a finished run or a Hugging Face folder, received "
            f"{folder}, which holds no config.json; check the path, or let the run end."
        )
    return target


def _check_table_options(arguments):
    """Raises for the options of a table or folder where there is none."""
    named = [own for own in (arguments.pictures, arguments.data) if own is not None]
    for name in ("image_column", "caption_column", "encoding"):
        value = getattr(arguments, name)
        is_for = os.path.exists if name == "encoding" else os.path.isfile
        if value is not None and not any(map(is_for, named)):
            raise InputError(
                f"--{name} is for a table of yours, received {value!r} with "
                f"{' and '.join(named) or 'none'}; leave it out, or name the table by "
                "--pictures."
            )


def _check_installed(arguments):
    extra, packages = _NEEDED[arguments.format]
    if arguments.quantize not in (None, "none"):
        packages += ("litert_quantizer",)
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"--format {arguments.format} needs {name}, which isn't installed; run "
                f'`pip install "align-keras[{extra}]"`.'
            )


def _write_card(align, folder, arguments, measured):
    from align_keras.export.model_card import SIGNATURES, model_card

    quantized = None if arguments.quantize == "none" else arguments.quantize
    card = model_card(
        align,
        weights=arguments.weights or quantized,
        licence=arguments.licence,
        described=_DESCRIBED.get(arguments.format, SIGNATURES),
        measured=measured,
        **about_run(arguments.model),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_saved_model(align, folder, arguments):
    from align_keras.export.saved_model import write_saved_models
    from align_keras.export.serving_files import write_serving_files

    write_saved_models(align, folder, weights=arguments.weights)
    write_serving_files(folder)


def _write_litert(align, folder, arguments):
    from align_keras.cli.export_litert import write_litert

    write_litert(align, folder, arguments)


def _write_web(align, folder, arguments):
    from align_keras.cli.export_web import write_web

    write_web(align, folder, arguments)


def _write_onnx(align, folder, arguments):
    from align_keras.cli.export_onnx import write_onnx

    write_onnx(align, folder, arguments)


_WRITERS = {
    "saved_model": _write_saved_model,
    "litert": _write_litert,
    "web": _write_web,
    "onnx": _write_onnx,
}
