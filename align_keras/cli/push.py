"""`align-keras push`: uploads a model to the Hugging Face Hub."""

import argparse

from align_keras.runs.hub_upload import push_to_hub
from align_keras.runs.model_export import EXPORT_FORMATS
from align_keras.utils.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The token of the Hub is that of `hf auth login` or of the variable HF_TOKEN."
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="run folder, preset folder, align_small_en, or an export, which is "
        "uploaded with all its files",
    )
    parser.add_argument(
        "repository", metavar="REPOSITORY", help="repository, such as user/model"
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="create a private repository, which only you can read",
    )
    parser.add_argument(
        "--revision",
        metavar="BRANCH",
        help="branch, which is created if it doesn't exist (default: main)",
    )
    parser.add_argument(
        "--exports",
        nargs="+",
        default=(),
        choices=tuple(EXPORT_FORMATS),
        metavar="FORMAT",
        help=f"exports to upload with the model: {', '.join(EXPORT_FORMATS)}. With "
        "litert, others can use the model without TensorFlow",
    )
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="FILE",
        help="output of `align-keras evaluate --json` for this model, for the model "
        "card. Repeat the option for several files",
    )
    parser.add_argument(
        "--license",
        metavar="ID",
        help="license of the model, such as apache-2.0, mit or other (default: that of "
        "the card in MODEL or on the Hub, or unknown)",
    )
    parser.add_argument(
        "--language",
        nargs="+",
        default=(),
        metavar="CODE",
        help="languages of the captions (default: en)",
    )
    parser.add_argument(
        "--datasets",
        nargs="+",
        default=(),
        metavar="NAME",
        help="names of the training sets on the Hub (default: the corpora of the run)",
    )
    parser.add_argument(
        "--commit-message",
        metavar="TEXT",
        help="message of the commit (default: Upload a model with align-keras)",
    )


def run(arguments: argparse.Namespace) -> int:
    url = push_to_hub(
        arguments.model,
        arguments.repository,
        private=arguments.private,
        revision=arguments.revision,
        commit_message=arguments.commit_message,
        exports=arguments.exports,
        evaluation=arguments.evaluation,
        license=arguments.license,
        language=arguments.language,
        datasets=arguments.datasets,
    )
    say(f"pushed {url}")
    return 0
