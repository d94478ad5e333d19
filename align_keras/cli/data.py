"""`align-keras data`: writes tables of public data sets for training and corpora."""

import argparse
import pathlib

from align_keras.utils.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Run `align-keras data TABLE --help` for the options of a table."
    tables = parser.add_subparsers(
        dest="table", metavar="TABLE", required=True, title="tables"
    )
    summary = "write Karpathy's splits of COCO or Flickr30K as a table of pairs"
    parser = tables.add_parser(
        "karpathy",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. For `align-keras train`, set "
        "task.train_data.pairs or task.validation_data.pairs to the table.",
    )
    parser.add_argument(
        "json_file", metavar="JSON", help="dataset_coco.json or dataset_flickr30k.json"
    )
    parser.add_argument(
        "--images",
        required=True,
        metavar="FOLDER",
        help="folder of the images. For COCO, it contains train2014/ and val2014/.",
    )
    parser.add_argument(
        "--splits",
        required=True,
        nargs="+",
        metavar="SPLIT",
        help="splits to write, in this order: train, restval (COCO only), val or test. "
        "If the test split is included, the file name must contain the word test. "
        "`align-keras train` never selects checkpoints by the metrics of such a table.",
    )
    parser.add_argument(
        "--out", required=True, metavar="TABLE.tsv", help="table to write"
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="skip missing images instead of failing",
    )


def run(arguments: argparse.Namespace) -> int:
    from align_keras.datasets.karpathy_table import write_karpathy_table
    from align_keras.runs.config_checks import names_test

    name = pathlib.Path(arguments.out).name
    if "test" in arguments.splits and not names_test(name):
        raise InputError(
            "`out` must have the word test in its name if `splits` includes test. "
            f"Received: {name}. Rename it, for example to karpathy_test.tsv."
        )
    counts = write_karpathy_table(
        arguments.json_file,
        arguments.images,
        arguments.splits,
        arguments.out,
        arguments.allow_missing,
    )
    print(
        f"wrote {counts.captions:,} captions of {counts.images:,} images to "
        f"{arguments.out}"
    )
    return 0
