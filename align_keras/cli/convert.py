"""`align-keras convert`: converts ALIGN between the Hugging Face and Keras formats."""

import argparse
import pathlib

from align_keras.cli.common import name_addresses
from align_keras.presets.hub import is_hub_name
from align_keras.utils.errors import InputError, check_tensorflow
from align_keras.utils.files import atomic_folder, new_folder
from align_keras.utils.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "format",
        choices=("hf", "keras"),
        help="format of SOURCE: hf for a Hugging Face model such as "
        "kakaobrain/align-base, keras for a run folder",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of the model, or hf://user/model if the format is hf",
    )
    parser.add_argument(
        "--to",
        required=True,
        metavar="DIR",
        help="folder to write, which must be new or empty",
    )


def run(arguments: argparse.Namespace) -> int:
    source = arguments.source
    is_hub = arguments.format == "hf" and is_hub_name(source)
    if not is_hub and not pathlib.Path(source).is_dir():
        raise InputError(
            f"SOURCE must be a folder. Received: {source}. Check the path."
        )
    check_tensorflow("The conversion of a model")
    target = new_folder(arguments.to, "to")
    # These imports load TensorFlow, which takes seconds. The paths are checked first.
    from align_keras.models import ALIGN
    from align_keras.models.conversion.hugging_face import to_hugging_face

    model = ALIGN.from_preset(source)
    if arguments.format == "hf":
        with atomic_folder(target) as folder:
            model.save_to_preset(folder)
        load_call = f'align_keras.ALIGN.from_preset("{target}")'
    else:
        to_hugging_face(model, target)
        load_call = f'transformers.AlignModel.from_pretrained("{target}")'
    message = (
        f"wrote {target} with {model.count_params():,} parameters. Load the model with "
        f"{load_call}"
    )
    say(name_addresses(message, arguments))
    return 0
