"""`align-keras export`: writes a trained model for other runtimes."""

import argparse
from collections.abc import Sequence
from typing import Any

from align_keras.cli.common import nested_commands
from align_keras.export import QUANTIZATIONS, WEIGHTS
from align_keras.runs.model_export import (
    EXPORT_FORMATS,
    FORMATS_OF_OPTION,
    export_model,
)
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

_FLAGS: dict[str, dict[str, Any]] = {
    "weights": {"choices": WEIGHTS, "help": "stored in half the room"},
    "quantize": {"choices": QUANTIZATIONS, "help": "of the towers"},
    "images": {
        "metavar": "PATH",
        "help": "a table or folder of captioned images, by which litert calibrates "
        "int8 (or a set as clipart), and which web shows in place of the run's index",
    },
    "image_column": {"metavar": "NAME", "help": "of the table of --images or --data"},
    "caption_column": {"metavar": "NAME", "help": "of the table of --images or --data"},
    "encoding": {"metavar": "NAME", "help": "of that table or folder"},
    "data": {
        "metavar": "D",
        "help": "a set as evaluate retrieval takes it, on which the recall of the "
        "quantized tower is measured",
    },
    "data_root": {"metavar": "DIR", "help": "where named sets lie (default: data)"},
    "resizable": {
        "action": "store_true",
        "help": "for images of any number and size, and any number of captions",
    },
    "license": {"metavar": "TEXT", "help": "of the model, kept in its files"},
    "title": {"metavar": "TEXT", "help": "of the page"},
    "litert_js": {
        "metavar": "DIR",
        "help": "a node_modules folder with @litertjs/core, copied beside the page",
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "align-keras export [FORMAT] --model M --to DIR [OPTION …]"
    parser.epilog = "align-keras export FORMAT --help shows a format's options."
    _add_options(parser, ())
    add = nested_commands(parser, "FORMAT", "formats (default: saved_model)")
    for name, kind in EXPORT_FORMATS.items():
        taken = [key for key, kinds in FORMATS_OF_OPTION.items() if name in kinds]
        _add_options(add(name, kind.help), taken)


def _add_options(parser: argparse.ArgumentParser, shown: Sequence[str]) -> None:
    """Adds all options. Help shows those in `shown`. `export_model` checks them."""
    default = {"default": parser.argument_default}
    parser.add_argument(
        "--model",
        metavar="M",
        help="a model with Keras weights: align_small_en, a run folder, a preset or "
        "Hugging Face folder, or hf://user/model",
    )
    parser.add_argument("--to", metavar="DIR", help="the folder to write; new or empty")
    for name, keywords in _FLAGS.items():
        keywords = {"dest": name, **default, **keywords}
        if name not in shown:
            keywords["help"] = argparse.SUPPRESS
        parser.add_argument(f"--{name.replace('_', '-')}", **keywords)
    parser.add_argument(
        "--evaluation",
        action="append",
        metavar="FILE",
        help="what evaluate --json printed of this model, for the card, with the "
        "metrics of groups by --slice-by; may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    for name in ("model", "to"):
        if getattr(arguments, name) is None:
            raise InputError(
                f"{name} must be given, received nothing; write --model RUN --to DIR."
            )
    names = (*FORMATS_OF_OPTION, "evaluation")
    values = {name: getattr(arguments, name) for name in names}
    options = {name: value for name, value in values.items() if value is not None}
    export_format = arguments.nested or "saved_model"
    export_model(arguments.model, arguments.to, export_format, **options)
    say(f"wrote {arguments.to}")
    return 0
