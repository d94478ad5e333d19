"""`align-keras search`: finds images for a text or for an image."""

import argparse
import json
import math


def _positive(kind, what):
    """The type of an option that is above 0, and finite."""

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}")
        return value

    return read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to an `argparse` parser."""
    parser.add_argument(
        "--model_dir",
        required=True,
        metavar="RUN",
        help="run folder with the export and the index, such as saved_models/icons",
    )
    parser.add_argument(
        "text",
        nargs="*",
        default=[],
        metavar="TEXT",
        help='text to search for; put several words in quotes: "red bicycle". '
        "Several texts are searched one after another; beside --image they are added "
        "to it, as --plus",
    )
    parser.add_argument(
        "--image",
        action="append",
        metavar="FILE",
        help="image (JPEG, PNG, GIF, BMP or WebP) to search similar ones for; "
        "repeatable",
    )
    for option, help in (("--plus", "add to"), ("--minus", "take from")):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="TEXT",
            help=f"words to {help} the image or the text; repeatable",
        )
    parser.add_argument(
        "--text-weight",
        type=_positive(float, "a number > 0"),
        metavar="W",
        help="weight of each text beside an image's 1 (default: 2, the paper's best)",
    )
    parser.add_argument(
        "-k",
        type=_positive(int, "an integer >= 1"),
        default=5,
        help="number of images to show (default: %(default)s)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON in place of tables"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from align_keras.runs.run_folder import check_searchable
    from align_keras.search.run_search import search

    check_searchable(arguments.model_dir)
    found = search(
        arguments.model_dir,
        arguments.text,
        image=arguments.image or [],
        plus=arguments.plus,
        minus=arguments.minus,
        text_weight=arguments.text_weight,
        k=arguments.k,
    )
    if arguments.json:
        print(json.dumps({"queries": found}, ensure_ascii=False, indent=2))
    else:
        for query in found:
            _print_table(_title(query), query["hits"])
    return 0


def _title(query):
    parts = [query.get("image") or query["text"]]
    parts += [f"+ {text}" for text in query["plus"]]
    return " ".join(parts + [f"− {text}" for text in query["minus"]])


def _plain(text):
    """Text without markup and without control characters of a terminal."""
    from rich.text import Text

    return Text(
        "".join(character if character.isprintable() else " " for character in text)
    )


def _print_table(query, hits):
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_plain(query), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("id", overflow="fold")
    table.add_column("caption", overflow="fold")
    for hit in hits:
        table.add_row(
            str(hit["rank"]),
            f"{hit['score']:.3f}",
            _plain(hit["id"]),
            _plain(" | ".join(hit["captions"])),
        )
    Console().print(table)
