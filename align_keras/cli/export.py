"""`align-keras export`: exports a trained model for other runtimes."""

import argparse
from collections.abc import Sequence
from typing import Any

from align_keras.cli.common import add_nested_commands, name_addresses
from align_keras.export import QUANTIZATIONS, WEB_QUANTIZATION, WEIGHTS
from align_keras.runs.model_export import (
    EXPORT_FORMATS,
    FORMATS_OF_OPTION,
    export_model,
)
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

# Arguments of `add_argument` for the options of the formats.
_FLAGS: dict[str, dict[str, Any]] = {
    "weights": {
        "choices": WEIGHTS,
        "help": "dtype of the stored weights, which halves their size",
    },
    "quantize": {
        "choices": QUANTIZATIONS,
        "help": "quantization of the image encoder and the text encoder (default: "
        f"{WEB_QUANTIZATION} for the format web, none for litert)",
    },
    "images": {
        "metavar": "PATH",
        "help": "table or folder of captioned images. The format litert calibrates "
        "int8 with them, and also accepts icons. The "
        "format web shows them instead of the images in the index of the run.",
    },
    "image_column": {
        "metavar": "NAME",
        "help": "column of image paths in the table of --images or --data",
    },
    "caption_column": {
        "metavar": "NAME",
        "help": "column of captions in the table of --images or --data",
    },
    "encoding": {
        "metavar": "NAME",
        "help": "text encoding of the table or folder of --images or --data",
    },
    "data": {
        "metavar": "D",
        "help": "data set on which the recall of the quantized encoders is measured, "
        "as for `align-keras evaluate retrieval`",
    },
    "data_root": {
        "metavar": "DIR",
        "help": "folder of the named data sets (default: data)",
    },
    "resizable": {
        "action": "store_true",
        "help": "accept any number of images of any size",
    },
    "dimensions": {
        "type": int,
        "metavar": "D",
        "help": "number of first components of the embeddings that the exported model "
        "computes, scaled to unit length",
    },
    "license": {
        "metavar": "TEXT",
        "help": "license of the model, which is stored in the exported files",
    },
    "title": {"metavar": "TEXT", "help": "title of the page"},
    "litert_js": {
        "metavar": "DIR",
        "help": "node_modules folder with @litertjs/core, which is copied next to the "
        "page",
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "align-keras export [FORMAT] --model M --to DIR [OPTION …]"
    parser.epilog = (
        "Run `align-keras export FORMAT --help` for the options of a format."
    )
    _add_options(parser, ())
    add_format = add_nested_commands(parser, "FORMAT", "formats (default: saved_model)")
    for name, export_format in EXPORT_FORMATS.items():
        options = [
            option for option, formats in FORMATS_OF_OPTION.items() if name in formats
        ]
        _add_options(add_format(name, export_format.help), options)


def _add_options(parser: argparse.ArgumentParser, visible: Sequence[str]) -> None:
    """Adds the options of all formats to a parser.

    The parser accepts every option, so that `export_model` can explain in its error why
    an option does not apply.

    Args:
        parser: parser of the command or of one format.
        visible: names of the options that the help lists.
    """
    default = {"default": parser.argument_default}
    parser.add_argument(
        "--model",
        metavar="M",
        help="model with Keras weights: align_small_en, a run folder, a preset folder, "
        "a Hugging Face folder, or hf://user/model[@revision]",
    )
    parser.add_argument(
        "--to", metavar="DIR", help="folder to write, which must be new or empty"
    )
    for name, keywords in _FLAGS.items():
        keywords = {"dest": name, **default, **keywords}
        if name not in visible:
            keywords["help"] = argparse.SUPPRESS
        parser.add_argument(f"--{name.replace('_', '-')}", **keywords)
    parser.add_argument(
        "--evaluation",
        action="append",
        metavar="FILE",
        help="output of `align-keras evaluate --json` for this model. The model card "
        "lists its metrics, and those of its groups if --slice-by was used. Repeat the "
        "option for several files.",
    )


def run(arguments: argparse.Namespace) -> int:
    for name in ("model", "to"):
        if getattr(arguments, name) is None:
            raise InputError(
                f"`{name}` must be set. Received: {name}=None. Use --model RUN --to "
                "DIR."
            )
    names = (*FORMATS_OF_OPTION, "evaluation")
    values = {name: getattr(arguments, name) for name in names}
    options = {name: value for name, value in values.items() if value is not None}
    export_format = arguments.nested or "saved_model"
    export_model(arguments.model, arguments.to, export_format, **options)
    say(f"wrote {name_addresses(arguments.to, arguments)}")
    return 0
