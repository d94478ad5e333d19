"""`align-keras finetune`: fine-tunes a trained model on the pairs of a user."""

import argparse
import pathlib
import shlex
import time

from align_keras.cli.common import add_table_options, print_json, print_table
from align_keras.embedders.locations import DEFAULT_MODEL
from align_keras.utils.files import read_json
from align_keras.utils.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="M",
        help="trained model with Keras weights: align_small_en (default), the folder "
        "of a run or a preset, a Hugging Face folder, or hf://user/model[@revision]",
    )
    parser.add_argument(
        "--pairs",
        required=True,
        metavar="PATH",
        help="your image-caption pairs: a CSV, TSV or JSONL file with a column of "
        "image paths and a column of captions, or a folder of NAME.jpg|png|webp next "
        "to NAME.txt. With --texts, captions may be missing",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the fine-tuned model, its search index and the report "
        "(default: saved_models/finetuned_NAME for pairs in NAME.csv)",
    )
    parser.add_argument(
        "--teacher",
        metavar="M",
        help="larger model from which the model also learns: any model of "
        "align-keras search. The folder also gets 8-bit files",
    )
    parser.add_argument(
        "--texts",
        metavar="FILE",
        help="text file with a text in each line. The teacher chooses the captions of "
        "images without captions from these texts",
    )
    add_table_options(parser)
    parser.add_argument(
        "--old-task",
        metavar="PAIRS",
        help="pairs on which the report measures how much the model has forgotten: a "
        "table, a folder, or a corpus such as stamps (default: stamps if they are "
        "installed)",
    )
    parser.add_argument(
        "--config_file",
        metavar="F",
        action="append",
        default=[],
        help="YAML file that overrides values of the experiment own_pairs",
    )
    parser.add_argument(
        "--params_override",
        metavar="A.B=C,…",
        action="append",
        default=[],
        help="values that override the experiment and the files, such as "
        "finetune.blocks_epochs=4",
    )
    parser.add_argument("--json", action="store_true", help="print the recalls as JSON")


def run(arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    from align_keras.runs.finetuning import finetune

    tuned = finetune(
        arguments.model,
        arguments.pairs,
        arguments.out,
        teacher=arguments.teacher,
        texts=arguments.texts,
        image_column=arguments.image_column,
        caption_column=arguments.caption_column,
        encoding=arguments.encoding,
        old_task=arguments.old_task,
        config_files=arguments.config_file,
        params_override=arguments.params_override,
    )
    # This import loads TensorFlow, which `finetune` must configure first.
    from align_keras.runs.finetuning_results import RESULTS_FILE

    results = read_json(tuned.directory / RESULTS_FILE)
    if arguments.json:
        print_json(results)
    else:
        _print_changes(results)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    report = pathlib.Path(tuned.directory) / "report.html"
    say(f"done in {minutes} min {seconds} s. Open {report}, or search your images:")
    folder = shlex.quote(str(tuned.directory))
    say(f'  align-keras search --model_dir {folder} "YOUR QUERY"')
    return 0


def _print_changes(results: dict) -> None:
    """Prints a table of recall before and after for each data set."""
    from align_keras.reports.run_report import DIRECTIONS

    columns = ("direction", "k", "before %", "after %", "change", "95% interval")
    for name, changes in results["changes"].items():
        rows = []
        for change in changes:
            difference, low, high = (100 * value for value in change["change"])
            rows.append(
                (
                    DIRECTIONS[change["direction"]],
                    change["k"],
                    f"{100 * change['before'][0]:.1f}",
                    f"{100 * change['after'][0]:.1f}",
                    f"{difference:+.1f}",
                    f"{low:+.1f} to {high:+.1f}",
                )
            )
        print_table(f"{name}, recall at k", columns, rows)
