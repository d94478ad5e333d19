"""`align-keras search`: finds pictures for a text or for a picture."""

import argparse
import json
import math
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


def _positive_number(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {text!r}")
    return value


def add_arguments(parser):
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
        help="picture (JPEG, PNG, GIF, BMP or WebP) to search similar ones for; "
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
        type=_positive_number,
        metavar="W",
        help="weight of each text beside an image's 1 (default: 2, the paper's best)",
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
        InputError: when the run folder has no export or no index (names the command
            that builds them), they don't fit together, a picture cannot be read, or a
            text is blank.
    """
    import numpy as np

    from align_keras.runs.run_folder import check_searchable
    from align_keras.search import ExportedModel, SearchIndex

    queries = _queries(arguments)
    directory = pathlib.Path(arguments.model_dir)
    check_searchable(directory)
    # Both answer a wrong folder before TensorFlow is imported.
    index = SearchIndex.load(directory / "index")
    model = ExportedModel(directory / "export")
    embeddings = [
        model.encode_query(
            query.get("image"),
            [query["text"], *query["plus"]] if "text" in query else query["plus"],
            query["minus"],
            text_weight=arguments.text_weight or 2.0,
        )
        for query in queries
    ]
    rows, scores = index.query(np.concatenate(embeddings), arguments.k)
    found = [
        {**query, "hits": _hits(index, own_rows, own_scores)}
        for query, own_rows, own_scores in zip(queries, rows, scores, strict=True)
    ]
    if arguments.json:
        print(json.dumps({"queries": found}, ensure_ascii=False, indent=2))
    else:
        for query in found:
            _print_table(_title(query), query["hits"])
    return 0


def _queries(arguments):
    """Returns a dict a query: `image` or `text`, and the words `plus` and `minus`."""
    texts, images = arguments.text, arguments.image or []
    if any(not text.strip() for text in [*texts, *arguments.plus, *arguments.minus]):
        raise InputError(
            "`TEXT` must not be blank, got "
            f"{[*texts, *arguments.plus, *arguments.minus]}; name what to look for."
        )
    if not images and not texts:
        raise InputError(
            "a search needs TEXT or --image, received neither; name what to look for, "
            "and by --plus and --minus what to add to it and to take from it."
        )
    words = {"plus": arguments.plus, "minus": arguments.minus}
    if arguments.text_weight and not (images and (texts or any(words.values()))):
        raise InputError(
            "--text-weight weighs words beside an image, received "
            f"{arguments.text_weight:g} without both; give --image and words."
        )
    if images:
        words["plus"] = [*texts, *arguments.plus]
        return [{"image": image, **words} for image in images]
    return [{"text": text, **words} for text in texts]


def _title(query):
    parts = [query.get("image") or query["text"]]
    parts += [f"+ {text}" for text in query["plus"]]
    return " ".join(parts + [f"− {text}" for text in query["minus"]])


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
