"""`align-keras convert`: converts ALIGN between the Hugging Face and Keras formats."""

import argparse

from align_keras.cli.common import name_addresses
from align_keras.utils.errors import check_tensorflow
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
    check_tensorflow("The conversion of a model")
    target = new_folder(arguments.to, "to")
    # These imports load TensorFlow, which takes seconds. The path is checked first.
    from align_keras.models import ALIGN
    from align_keras.models.conversion.hugging_face import to_hugging_face

    model = ALIGN.from_preset(arguments.source)
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
