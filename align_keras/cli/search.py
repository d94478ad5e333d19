"""`align-keras search`: finds images by words, by an image, or by both."""

import argparse
import dataclasses
import json
import math
import os
import sys

from align_keras.utils.errors import InputError

# Hits whose images are drawn by colored cells.
_BLOCKS = 4
# Of an index of `align-keras index`, not of a run's.
_OF_INDEX = ("index", "model", "where", "duplicates", "paths", "null")


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
        "--where",
        metavar="EXPR",
        help='only images of which it is true, such as "year >= 2020 and folder like '
        "'%%Italy%%'\"; names are path, folder, name, size, date, year, width, height, "
        "camera, captions, and the columns of an indexed table",
    )
    parser.add_argument(
        "-k",
        type=_positive(int, "an integer >= 1"),
        default=5,
        help="number of images to show (default: %(default)s)",
    )
    parser.add_argument(
        "--duplicates",
        action="store_true",
        help="show near-duplicates too, which are folded into the best of them",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="where the model lies that the index was made with, if it was moved",
    )
    speeds = parser.add_mutually_exclusive_group()
    speeds.add_argument(
        "--exact",
        dest="approximate",
        action="store_const",
        const=False,
        help="compare with every image (default: below 200,000 images)",
    )
    speeds.add_argument(
        "--approximate",
        action="store_const",
        const=True,
        help="search the approximate index (default: from 200,000 images on)",
    )
    places = parser.add_mutually_exclusive_group()
    places.add_argument(
        "--index",
        metavar="INDEX",
        help="what align-keras index wrote (default: $ALIGN_KERAS_INDEX, else "
        "~/.local/share/align_keras/index)",
    )
    places.add_argument(
        "--model_dir",
        metavar="RUN",
        help="search the index of a finished run, such as saved_models/icons",
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--json", action="store_true", help="print JSON in place of tables"
    )
    forms.add_argument(
        "--paths", action="store_true", help="print paths alone, one a line"
    )
    parser.add_argument(
        "-0",
        "--null",
        action="store_true",
        help="with --paths, end each by a null byte, for xargs -0",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if arguments.model_dir is not None:
        return _search_run(arguments)
    from align_keras.search.image_index import Index

    queries = _queries(arguments)
    index = Index.open(arguments.index, arguments.model)
    found = [index.query(query) for query in queries]
    if arguments.paths:
        _print_paths(found, "\0" if arguments.null else "\n")
    elif arguments.json:
        _print_json(
            {**_told(query), "hits": [dataclasses.asdict(hit) for hit in hits]}
            for query, hits in zip(queries, found, strict=True)
        )
    else:
        for query, hits in zip(queries, found, strict=True):
            _print_hits(query, hits)
    return 0


def _queries(arguments):
    """A query for each image, or for each text."""
    from align_keras.search.query import TEXT_WEIGHT, Query

    texts, images = arguments.text, arguments.image or []
    words = [*texts, *arguments.plus, *arguments.minus]
    if any(not word.strip() for word in words):
        raise InputError(
            f"`text` must not be blank, received {words}; name what to look for."
        )
    if not texts and not images:
        raise InputError(
            "a search needs `text` or `image`, received neither; name what to look "
            "for, and by `plus` and `minus` what to add to it and to take from it."
        )
    if arguments.text_weight and not (images and words):
        raise InputError(
            f"`text_weight` weighs words beside an image, received "
            f"{arguments.text_weight:g} without both; give `image` and words."
        )
    rest = {
        "plus": arguments.plus,
        "minus": arguments.minus,
        "where": arguments.where,
        "k": arguments.k,
        "duplicates": arguments.duplicates,
        "text_weight": arguments.text_weight or TEXT_WEIGHT,
        "approximate": arguments.approximate,
    }
    if images:
        return [Query(texts, image, **rest) for image in images]
    return [Query(text, **rest) for text in texts]


def _told(query):
    told = {name: list(getattr(query, name)) for name in ("text", "plus", "minus")}
    return {**told, "image": query.image, "where": query.where}


def _search_run(arguments):
    """Searches the index that a finished run has written, by its export."""
    given = [name for name in _OF_INDEX if getattr(arguments, name)]
    if given:
        raise InputError(
            f"`{given[0]}` is for an index of `align-keras index`, received it with "
            "`model_dir`; leave one of them out."
        )
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
        _print_json(found)
    else:
        for query in found:
            print_found(_title(query), query["hits"])
    return 0


def _print_json(queries):
    print(json.dumps({"queries": list(queries)}, ensure_ascii=False, indent=2))


def _print_paths(found, end):
    """As bytes, for names needn't be UTF-8."""
    sys.stdout.flush()
    out = getattr(sys.stdout, "buffer", None)
    text = "".join(f"{hit.path}{end}" for hits in found for hit in hits)
    if out is None:  # Another stream in its place, such as one of tests.
        sys.stdout.write(text)
    else:
        out.write(os.fsencode(text))


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


def _print_hits(query, hits):
    """A table of an index's hits."""
    way = _way(hits)
    if way is not None:
        lines = []
        for hit in hits:
            copies = f" (+ {len(hit.duplicates)} alike)" if hit.duplicates else ""
            told = " | ".join([hit.path + copies, *hit.captions])
            lines.append(f"{hit.rank}. {hit.score:.3f} {hit.relevance}  {told}")
        _print_images(query.title, [hit.path for hit in hits], lines, way)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_plain(query.title), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("match")
    table.add_column("path", overflow="fold")
    table.add_column("date")
    if any(hit.captions for hit in hits):
        table.add_column("caption", overflow="fold")
    for hit in hits:
        copies = f" (+ {len(hit.duplicates)} alike)" if hit.duplicates else ""
        row = [str(hit.rank), f"{hit.score:.3f}", hit.relevance]
        row += [_plain(hit.path + copies), str(hit.columns.get("date") or "")[:10]]
        if len(table.columns) > len(row):
            row.append(_plain(" | ".join(hit.captions)))
        table.add_row(*row)
    Console().print(table)


def _way(hits):
    """How the terminal shows images; blocks are large, so for few hits alone."""
    from align_keras.cli.terminal_images import protocol

    way = protocol(os.environ, sys.stdout.isatty())
    return None if way in ("blocks", "blocks256") and len(hits) > _BLOCKS else way


def _print_images(title, paths, lines, way):
    """Each hit's image, with its line below it."""
    from align_keras.cli.terminal_images import drawn

    print(_plain(title).plain)
    for path, line in zip(paths, lines, strict=True):
        image = drawn(path, way)
        if image is not None:
            print(image)
        print(_plain(line).plain)


def print_found(query: str, hits: list[dict]) -> None:
    """Prints a run's hits, as images where the terminal shows them, else a table."""
    way = _way(hits)
    if way is not None and all("thumbnail" in hit for hit in hits):
        lines = [
            f"{hit['rank']}. {hit['score']:.3f}  {' | '.join(hit['captions'])}"
            for hit in hits
        ]
        _print_images(query, [hit["thumbnail"] for hit in hits], lines, way)
        return
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
