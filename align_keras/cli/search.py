"""`align-keras search`: finds images by words, by an image, or by both."""

import argparse
import dataclasses
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

from align_keras.cli.common import (
    AT_LEAST_ONE,
    model_to_open,
    number,
    plain,
    print_json,
    print_table,
)
from align_keras.embedders.locations import RUNTIME_HELP
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.embedders import Embedder
    from align_keras.search.query import Hit, Query

# Hits whose images are drawn by colored cells.
_BLOCKS = 4
# Characters of captions that a table leaves whole.
_FOLDED = 16
# Captions shown of an image.
_CAPTIONS = 3
# Columns of the table of hits after the rank. All but the first are text.
_COLUMNS = ("score", "match", "path", "date", "caption")


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
        type=number("a number > 0", float, sys.float_info.min),
        metavar="W",
        help="weight of each text beside an image's 1 (default: 0.5; the paper uses 2 "
        "with its large models)",
    )
    parser.add_argument(
        "--where",
        metavar="EXPR",
        help="only images of which it is true, without TEXT those that were indexed "
        'last, such as "year >= 2020 and folder like '
        "'%%Italy%%'\"; names are path, folder, name, size, date, year, width, height, "
        "camera, captions, and the columns of an indexed table",
    )
    parser.add_argument(
        "-k",
        type=AT_LEAST_ONE,
        default=5,
        help="number of images to show (default: %(default)s)",
    )
    parser.add_argument(
        "--duplicates",
        action=argparse.BooleanOptionalAction,
        help="show near-duplicates too, or fold them into the best of them (default: "
        "folded in an index of files, shown in one of a run)",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="the model that the index was made with, if it was moved",
    )
    parser.add_argument("--runtime", metavar="R", help=RUNTIME_HELP)
    speeds = parser.add_mutually_exclusive_group()
    for option, help in (
        ("--exact", "compare with every image (default: below 200,000 images)"),
        ("--approximate", "search an approximate index (default: from 200,000 on)"),
    ):
        const = option == "--approximate"
        speeds.add_argument(
            option, dest="approximate", action="store_const", const=const, help=help
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
    from align_keras.search.image_index import Index

    if arguments.null and not arguments.paths:
        raise InputError("`null` belongs to `paths`, received it alone; add `paths`.")
    queries = _queries(arguments)
    index_folder, model = _index_and_model(arguments)
    index = Index.open(index_folder, model)
    results = [(query, index.query(query)) for query in queries]
    if arguments.paths:
        _print_paths(results, "\0" if arguments.null else "\n")
    elif arguments.json:
        print_json({"queries": [_as_json(query, hits) for query, hits in results]})
    else:
        for query, hits in results:
            print_hits(query.title or query.where or "", hits)
    return 0


def _index_and_model(
    arguments: argparse.Namespace,
) -> "tuple[str | None, str | Embedder | None]":
    """Returns the folder or address of the index, and its model where named."""
    if arguments.model_dir is None:
        return arguments.index, model_to_open(arguments)
    from align_keras.runs.run_folder import check_searchable

    check_searchable(arguments.model_dir)
    if arguments.model is None:
        arguments.model = os.path.join(arguments.model_dir, "export")
    return os.path.join(arguments.model_dir, "index"), model_to_open(arguments)


def _queries(arguments: argparse.Namespace) -> "list[Query]":
    """Returns a query for each image, or for each text, or one of a condition alone."""
    from align_keras.search.query import TEXT_WEIGHT, Query, check_words

    texts = arguments.text
    images = arguments.image or []
    words = [*arguments.plus, *arguments.minus]
    is_condition = bool(arguments.where) and not (texts or images or words)
    if not is_condition or arguments.text_weight:
        check_words(texts, images, words, arguments.text_weight)
    names = ("plus", "minus", "where", "k", "duplicates", "approximate")
    options = {name: getattr(arguments, name) for name in names}
    options["text_weight"] = arguments.text_weight or TEXT_WEIGHT
    if images:
        return [Query(texts, image, **options) for image in images]
    if is_condition:
        return [Query(**options)]
    return [Query(text, **options) for text in texts]


def _as_json(query: "Query", hits: "list[Hit]") -> dict[str, Any]:
    """Returns a query and its hits as one object of the JSON output."""
    return {
        "text": list(query.text),
        "plus": list(query.plus),
        "minus": list(query.minus),
        "image": query.image,
        "where": query.where,
        "hits": [dataclasses.asdict(hit) for hit in hits],
    }


def _print_paths(results: "list[tuple[Query, list[Hit]]]", end: str) -> None:
    """Prints paths as bytes, for names needn't be UTF-8."""
    sys.stdout.flush()
    out = getattr(sys.stdout, "buffer", None)
    text = "".join(f"{hit.file}{end}" for _, hits in results for hit in hits)
    if out is None:  # Another stream in its place, such as one of tests.
        sys.stdout.write(text)
    else:
        out.write(os.fsencode(text))


def print_hits(title: str, hits: "list[Hit]") -> None:
    """Prints hits as a table, or as lines with their images where the terminal can."""
    from align_keras.search.terminal_images import draw_image, image_protocol

    if not hits:
        print(f"{plain(title).plain}: nothing found; no image fulfills what is asked.")
        return
    rows = [_row(hit) for hit in hits]
    way = image_protocol(os.environ, sys.stdout.isatty())
    # Blocks are large, so for few hits alone.
    draws = way is not None and (
        way not in ("blocks", "blocks256") or len(hits) <= _BLOCKS
    )
    names = [name for name in _COLUMNS if any(row[name] for row in rows)]
    if draws or not _fits(rows, names):
        print(plain(title).plain)
        for hit, row in zip(hits, rows, strict=True):
            drawing = draw_image(hit.file, way) if draws and way is not None else None
            if drawing is not None:
                print(drawing)
            line = " | ".join(f"{name} {text}" for name, text in row.items() if text)
            print(plain(f"{hit.rank}. {line}").plain)
        return
    table = [
        (hit.rank, *(row[name] for name in names))
        for hit, row in zip(hits, rows, strict=True)
    ]
    print_table(title, ("rank", *names), table, left=_COLUMNS[1:])


def _row(hit: "Hit") -> dict[str, str]:
    """Returns the cells of a hit by column."""
    copies = f" (+ {len(hit.duplicates)} alike)" if hit.duplicates else ""
    return {
        "score": "" if hit.score is None else f"{hit.score:.3f}",
        "match": hit.relevance or "",
        "path": hit.path + copies,
        "date": str(hit.columns.get("date") or "")[:10],
        "caption": _in_short(hit.captions),
    }


def _in_short(captions: list[str]) -> str:
    """Returns the first captions. An image may have hundreds."""
    more = len(captions) - _CAPTIONS
    return " | ".join(captions[:_CAPTIONS]) + (f" | {more:,} more" if more > 0 else "")


def _fits(rows: list[dict[str, str]], names: list[str]) -> bool:
    """Returns True if a table shows each column whole next to folded captions.

    A path that is folded can't be copied.
    """
    widths = [len("rank")]
    for name in names:
        whole = max(len(row[name]) for row in rows)
        width = max(len(name), whole)
        widths.append(min(width, _FOLDED) if name == "caption" else width)
    return 1 + sum(width + 3 for width in widths) <= shutil.get_terminal_size().columns
