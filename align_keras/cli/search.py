"""`align-keras search`: finds images by words, by an image, or by both."""

import argparse
import dataclasses
import os
import shutil
import sys
from typing import Any

from align_keras.cli.common import AT_LEAST_ONE, number, plain, print_json, print_table
from align_keras.utils.errors import InputError

# Hits whose images are drawn by colored cells.
_BLOCKS = 4
# Characters of captions that a table leaves whole.
_FOLDED = 16
# Captions shown of an image.
_CAPTIONS = 3
# Of an index of `align-keras index`, not of a run's.
_OF_INDEX = ("index", "model", "where", "duplicates", "paths", "null")
# What is shown of hits besides their ranks; but for the first, text.
_COLUMNS = ("score", "match", "path", "id", "date", "caption")


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
        action="store_true",
        help="show near-duplicates too, which are folded into the best of them",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="where the model lies that the index was made with, if it was moved",
    )
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
    if arguments.model_dir is not None:
        return _search_run(arguments)
    from align_keras.search.image_index import Index

    if arguments.null and not arguments.paths:
        raise InputError("`null` belongs to `paths`, received it alone; add `paths`.")
    queries = _queries(arguments)
    index = Index.open(arguments.index, arguments.model)
    found = [(query, _hits(index, query)) for query in queries]
    if arguments.paths:
        _print_paths(found, "\0" if arguments.null else "\n")
    elif arguments.json:
        told = [
            {**_told(query), "hits": [dataclasses.asdict(hit) for hit in hits]}
            for query, hits in found
        ]
        print_json({"queries": told})
    else:
        for query, hits in found:
            _print_hits(query.title or query.where, map(_of_index, hits))
    return 0


def _hits(index, query):
    if query.image is None and not query.text:
        return index.latest(query.where, query.k)
    return index.query(query)


def _queries(arguments):
    """A query for each image, or for each text, or one of a condition alone."""
    from align_keras.search.query import TEXT_WEIGHT, Query, check_words

    texts, images = arguments.text, arguments.image or []
    others = [*arguments.plus, *arguments.minus]
    is_condition = bool(arguments.where) and not (texts or images or others)
    if not is_condition or arguments.text_weight:
        check_words(texts, images, others, arguments.text_weight)
    options = ("plus", "minus", "where", "k", "duplicates", "approximate")
    rest = {name: getattr(arguments, name) for name in options}
    rest["text_weight"] = arguments.text_weight or TEXT_WEIGHT
    if images:
        return [Query(texts, image, **rest) for image in images]
    if is_condition:
        return [Query(**rest)]
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
    options = ("plus", "minus", "text_weight", "k")
    found = search(
        arguments.model_dir,
        arguments.text,
        image=arguments.image or [],
        **{name: getattr(arguments, name) for name in options},
    )
    if arguments.json:
        print_json({"queries": found})
    else:
        for query in found:
            title = [query.get("image") or query["text"]]
            title += [f"+ {text}" for text in query["plus"]]
            title += [f"− {text}" for text in query["minus"]]
            print_found(" ".join(title), query["hits"])
    return 0


def _print_paths(found, end):
    """As bytes, for names needn't be UTF-8."""
    sys.stdout.flush()
    out = getattr(sys.stdout, "buffer", None)
    text = "".join(f"{hit.path}{end}" for _, hits in found for hit in hits)
    if out is None:  # Another stream in its place, such as one of tests.
        sys.stdout.write(text)
    else:
        out.write(os.fsencode(text))


def print_found(query: str, hits: list[dict[str, Any]]) -> None:
    """Prints a run's hits, as images where the terminal shows them, else a table."""
    _print_hits(query, map(_of_run, hits))


def _of_index(hit):
    """What is shown of a hit, and where its image lies."""
    copies = f" (+ {len(hit.duplicates)} alike)" if hit.duplicates else ""
    shown = {
        "score": "" if hit.score is None else f"{hit.score:.3f}",
        "match": hit.relevance or "",
        "path": hit.path + copies,
        "date": str(hit.columns.get("date") or "")[:10],
        "caption": _in_short(hit.captions),
    }
    return shown, hit.path


def _in_short(captions):
    """The first captions; an image may have hundreds."""
    more = len(captions) - _CAPTIONS
    return " | ".join(captions[:_CAPTIONS]) + (f" | {more:,} more" if more > 0 else "")


def _of_run(hit):
    shown = {"score": f"{hit['score']:.3f}", "id": hit["id"]}
    return {**shown, "caption": _in_short(hit["captions"])}, hit.get("thumbnail")


def _print_hits(title, hits):
    """Hits as lines, with their images where the terminal shows them, or a table."""
    from align_keras.search.terminal_images import draw_image, image_protocol

    hits = list(hits)
    if not hits:
        print(f"{plain(title).plain}: nothing found; no image fulfills what is asked.")
        return
    way = image_protocol(os.environ, sys.stdout.isatty())
    # Blocks are large, so for few hits alone.
    small = way not in ("blocks", "blocks256") or len(hits) <= _BLOCKS
    draws = way is not None and small and all(image for _, image in hits)
    names = [name for name in _COLUMNS if any(shown.get(name) for shown, _ in hits)]
    if draws or not _fits([shown for shown, _ in hits], names):
        print(plain(title).plain)
        for rank, (shown, image) in enumerate(hits, 1):
            drawing = draw_image(image, way) if draws else None
            if drawing is not None:
                print(drawing)
            told = " | ".join(f"{name} {text}" for name, text in shown.items() if text)
            print(plain(f"{rank}. {told}").plain)
        return
    rows = [
        (rank, *(shown[name] for name in names))
        for rank, (shown, _) in enumerate(hits, 1)
    ]
    print_table(title, ("rank", *names), rows, left=_COLUMNS[1:])


def _fits(hits, names):
    """Whether a table holds each column whole beside captions that it may fold: a path
    that it folds can't be copied, and a run's ids may be paths.
    """
    widths = [len("rank")]
    for name in names:
        whole = max(len(hit.get(name, "")) for hit in hits)
        width = max(len(name), whole)
        widths.append(min(width, _FOLDED) if name == "caption" else width)
    return 1 + sum(width + 3 for width in widths) <= shutil.get_terminal_size().columns
