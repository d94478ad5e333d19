"""`align-keras search`: finds pictures for a text or for a picture."""

import argparse
import json
import pathlib

from align_keras.utils.errors import InputError


def _positive_integer(text):
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return value


def add_arguments(parser):
    """Adds the arguments of the command to an `argparse` parser."""
    parser.add_argument(
        "--model_dir",
        required=True,
        metavar="RUN",
        help="run folder with the export and the index, such as saved_models/icons",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "text",
        nargs="*",
        default=[],
        metavar="TEXT",
        help='text to search for; put several words in quotes: "red bicycle". '
        "Several texts are searched one after another",
    )
    what.add_argument(
        "--image",
        action="append",
        metavar="FILE",
        help="picture (JPEG, PNG, GIF, BMP or WebP) to search similar ones for; "
        "repeatable",
    )
    parser.add_argument(
        "-k",
        type=_positive_integer,
        default=5,
        help="number of pictures to show (default: %(default)s)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON in place of tables"
    )


def run(arguments):
    """Searches, and prints the hits to stdout.

    Args:
        arguments: `argparse.Namespace` of `add_arguments`.

    Returns:
        int, the exit code 0.

    Raises:
        InputError: when the run folder has no export or no index, they don't
            fit together, a picture cannot be read, or a text is blank.
    """
    from align_keras.search import ExportedModel, SearchIndex

    if any(not text.strip() for text in arguments.text):
        raise InputError(
            f"`TEXT` must not be blank, got {arguments.text}; name what to look for."
        )
    directory = pathlib.Path(arguments.model_dir)
    # Both answer a wrong folder before TensorFlow is imported.
    index = SearchIndex.load(directory / "index")
    model = ExportedModel(directory / "export")
    if arguments.image:
        embeddings = model.encode_images(arguments.image)
    else:
        embeddings = model.encode_texts(arguments.text)
    rows, scores = index.query(embeddings, arguments.k)
    kind = "image" if arguments.image else "text"
    found = [
        {kind: query, "hits": _hits(index, own_rows, own_scores)}
        for query, own_rows, own_scores in zip(
            arguments.image or arguments.text, rows, scores, strict=True
        )
    ]
    if arguments.json:
        print(json.dumps({"queries": found}, ensure_ascii=False, indent=2))
    else:
        for query in found:
            _print_table(query[kind], query["hits"])
    return 0


def _hits(index, rows, scores):
    hits = []
    for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1):
        entry = dict(index.entries[row])
        if "thumbnail" in entry:
            entry["thumbnail"] = str(index.directory / entry["thumbnail"])
        hits.append({"rank": rank, "score": round(float(score), 6), **entry})
    return hits


def _plain(text):
    """Text without markup and without control characters of a terminal."""
    from rich.text import Text

    return Text("".join(own if own.isprintable() else " " for own in text))


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
