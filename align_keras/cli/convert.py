"""`align-keras convert`: models between Hugging Face's form and ours."""

import argparse
import pathlib

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_folder, new_folder
from align_keras.utils.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "format",
        choices=("hf", "keras"),
        help="what SOURCE is: hf, a folder as kakaobrain/align-base; keras, a run "
        "folder",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder; hf://user/model for hf"
    )
    parser.add_argument(
        "--to", required=True, metavar="DIR", help="the folder to write; new or empty"
    )


def run(arguments: argparse.Namespace) -> int:
    source = arguments.source
    # Before TensorFlow is imported.
    is_hub = arguments.format == "hf" and source.startswith("hf://")
    if not is_hub and not pathlib.Path(source).is_dir():
        raise InputError(f"SOURCE must be a folder, received {source}; check the path.")
    target = new_folder(arguments.to, "to")
    from align_keras.models import ALIGN
    from align_keras.models.conversion.hugging_face import to_hugging_face

    model = ALIGN.from_preset(source)
    if arguments.format == "hf":
        with atomic_folder(target) as folder:
            model.save_to_preset(folder)
        opens = f'align_keras.ALIGN.from_preset("{target}")'
    else:
        to_hugging_face(model, target)
        opens = f'transformers.AlignModel.from_pretrained("{target}")'
    say(f"wrote {target}: {model.count_params():,} parameters; {opens} opens it")
    return 0
