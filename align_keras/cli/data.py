"""`align-keras data`: writes tables of public data sets for training and corpora."""

import argparse
import pathlib

from align_keras.utils.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Run `align-keras data TABLE --help` for the options of a table."
    tables = parser.add_subparsers(
        dest="table", metavar="TABLE", required=True, title="tables"
    )
    _add_karpathy(tables)
    _add_clipart(tables)
    _add_emoji(tables)


def _add_table(
    tables: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    details: str,
) -> argparse.ArgumentParser:
    """Adds a nested command and returns its parser.

    Args:
        tables: nested commands of `align-keras data`.
        name: str, name of the table.
        summary: str, line in the list of tables.
        details: str, sentences that follow the summary in the help of the table.
    """
    description = f"{summary[0].upper()}{summary[1:]}. {details}"
    return tables.add_parser(name, help=summary, description=description)


def _add_karpathy(
    tables: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _add_table(
        tables,
        "karpathy",
        "write Karpathy's splits of COCO or Flickr30K as a table of pairs",
        "For `align-keras train`, set task.train_data.pairs or "
        "task.validation_data.pairs to the table.",
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
        "`align-keras train` chooses no checkpoint with such a table.",
    )
    parser.add_argument(
        "--out", required=True, metavar="TABLE.tsv", help="table to write"
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="skip missing images instead of failing",
    )


def _add_clipart(
    tables: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _add_table(
        tables,
        "clipart",
        "write the raw texts of the Open Clip Art Library as a table",
        "Each row has the title, the description or the keywords of one drawing. Use "
        "the table with `align-keras corpus build --source table:TABLE.jsonl`.",
    )
    parser.add_argument(
        "--out", required=True, metavar="TABLE.jsonl", help="table to write"
    )
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="folder that contains png/ and svg/ (default: $ALIGN_KERAS_CLIPART_DIR, "
        "or the folder of the Debian packages openclipart-png and openclipart-svg)",
    )


def _add_emoji(
    tables: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _add_table(
        tables,
        "emoji",
        "write emoji and their names in many languages, one table per language",
        "Use all tables with `align-keras corpus build --source table:FOLDER`. The "
        "images and names come from the npm packages emoji-datasource-google, "
        "emoji-datasource-twitter, cldr-annotations-full and "
        "cldr-annotations-derived-full.",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="folder of the tables to write"
    )
    parser.add_argument(
        "--node-modules",
        metavar="FOLDER",
        help="folder that contains the npm packages (default: $ALIGN_KERAS_EMOJI_DIR, "
        "or node_modules)",
    )
    parser.add_argument(
        "--languages",
        nargs="+",
        default=(),
        metavar="L",
        help="languages such as de or zh-Hant (default: all)",
    )


def run(arguments: argparse.Namespace) -> int:
    writers = {"karpathy": _karpathy, "clipart": _clipart, "emoji": _emoji}
    print(writers[arguments.table](arguments))
    return 0


def _karpathy(arguments: argparse.Namespace) -> str:
    from align_keras.datasets.karpathy_table import write_karpathy_table
    from align_keras.runs.run_checks import names_test

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
    return (
        f"wrote {counts.captions:,} captions of {counts.images:,} images to "
        f"{arguments.out}"
    )


def _clipart(arguments: argparse.Namespace) -> str:
    from align_keras.datasets.clipart_table import write_clipart_table

    counts = write_clipart_table(arguments.out, arguments.root)
    return (
        f"wrote {counts.titles:,} titles, {counts.descriptions:,} descriptions and "
        f"{counts.keyword_lines:,} keyword lists of {counts.images:,} images "
        f"({counts.images_without_text:,} images without text) to {arguments.out}"
    )


def _emoji(arguments: argparse.Namespace) -> str:
    from align_keras.datasets.emoji_tables import write_emoji_tables

    counts = write_emoji_tables(
        arguments.out, arguments.node_modules, arguments.languages
    )
    texts = sum(table.texts for table in counts.values())
    images = max((table.images for table in counts.values()), default=0)
    return (
        f"wrote {texts:,} texts of up to {images:,} images in {len(counts)} languages "
        f"to {arguments.out}"
    )
