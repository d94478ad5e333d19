"""`align-keras data`: tables of public data sets, for training and for corpora."""

import argparse
import pathlib

from align_keras.utils.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "align-keras data TABLE --help shows the options of a table."
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
    description = f"{summary[0].upper()}{summary[1:]}. {details}"
    return tables.add_parser(name, help=summary, description=description)


def _add_karpathy(
    tables: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _add_table(
        tables,
        "karpathy",
        "write Karpathy's splits of COCO or Flickr30K as a table of pairs",
        "`align-keras train` reads the table as task.train_data.pairs or "
        "task.validation_data.pairs.",
    )
    parser.add_argument(
        "json_file", metavar="JSON", help="dataset_coco.json or dataset_flickr30k.json"
    )
    parser.add_argument(
        "--images",
        required=True,
        metavar="FOLDER",
        help="folder of the images. COCO's folder holds train2014/ and val2014/",
    )
    parser.add_argument(
        "--splits",
        required=True,
        nargs="+",
        metavar="SPLIT",
        help="train, restval (COCO), val or test, in the order of the table. The name "
        "of a table with test must have the word test, so that `align-keras train` "
        "chooses no checkpoint by it",
    )
    parser.add_argument(
        "--out", required=True, metavar="TABLE.tsv", help="the table to write"
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave missing images out"
    )


def _add_clipart(
    tables: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _add_table(
        tables,
        "clipart",
        "write the uncleaned texts of the Open Clip Art Library as a table",
        "A row holds the title, the description or the keywords of a drawing. "
        "`align-keras corpus build --source table:TABLE.jsonl` reads the table.",
    )
    parser.add_argument(
        "--out", required=True, metavar="TABLE.jsonl", help="the table to write"
    )
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="folder with png/ and svg/ (default: $ALIGN_KERAS_CLIPART_DIR, or the "
        "folder of Debian's openclipart-png and openclipart-svg)",
    )


def _add_emoji(
    tables: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _add_table(
        tables,
        "emoji",
        "write emoji with their names in many languages, one table for each language",
        "`align-keras corpus build --source table:FOLDER` reads all tables. The npm "
        "packages emoji-datasource-google, emoji-datasource-twitter, "
        "cldr-annotations-full and cldr-annotations-derived-full hold the images and "
        "the names.",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="the folder of the tables"
    )
    parser.add_argument(
        "--node-modules",
        metavar="FOLDER",
        help="folder with the npm packages (default: $ALIGN_KERAS_EMOJI_DIR, or "
        "node_modules)",
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
            "--out must have the word test in its name if --splits has test. "
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
        f"{counts.keyword_lines:,} lines of keywords of {counts.images:,} images "
        f"({counts.images_without_text:,} images without text) to {arguments.out}"
    )


def _emoji(arguments: argparse.Namespace) -> str:
    from align_keras.datasets.emoji_tables import write_emoji_tables

    counts = write_emoji_tables(
        arguments.out, arguments.node_modules, arguments.languages
    )
    texts = sum(one.texts for one in counts.values())
    images = max((one.images for one in counts.values()), default=0)
    return (
        f"wrote {texts:,} texts of up to {images:,} images in {len(counts)} languages "
        f"to {arguments.out}"
    )
