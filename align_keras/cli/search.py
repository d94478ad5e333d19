"""`align-keras search`: searches images by text, by image, or by both."""

import argparse
import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

from align_keras.cli.common import (
    AT_LEAST_ONE,
    add_index,
    add_moved_model,
    number_type,
    print_json,
    read_model_options,
    without_control_characters,
)
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.embedders import Embedder
    from align_keras.search.query.hits import Hit
    from align_keras.search.query.query import Query

# Number of captions that are printed for an image.
_MAX_CAPTIONS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "text",
        nargs="*",
        default=[],
        metavar="TEXT",
        help='text to search for, in quotes if it has several words: "red bicycle". '
        "Several texts are separate searches. With --image, the texts are added to the "
        'image, as with --plus. A text may end in ^ and its weight: "red car^2".',
    )
    parser.add_argument(
        "--image",
        action="append",
        metavar="FILE",
        help="path or address of an image to find similar images for. Repeat the "
        "option for several searches.",
    )
    parser.add_argument(
        "--plus-image",
        action="append",
        default=[],
        metavar="FILE",
        help="path or address of another image for the search with --image, which then "
        "finds images that are similar to all of them. The option can be repeated.",
    )
    for option, change in (("--plus", "add to"), ("--minus", "subtract from")):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="TEXT",
            help=f"text to {change} the image or the text of the search. The option "
            "can be repeated.",
        )
    parser.add_argument(
        "--text-weight",
        type=number_type("a number > 0", float, sys.float_info.min),
        metavar="W",
        help="weight of each text, relative to the weight 1 of an image (default: the "
        "weight of the model, 1 for align_small_en)",
    )
    parser.add_argument(
        "--where",
        metavar="EXPR",
        help='condition that the images must meet, such as "year >= 2020 and folder '
        "like '%%Italy%%'\". The names are path, folder, name, size, date, year, "
        "width, height, camera, captions, and the columns of an indexed table. Without "
        "a text or an image, the search returns the images that were indexed last.",
    )
    parser.add_argument(
        "-k",
        type=AT_LEAST_ONE,
        default=5,
        help="number of images to return (default: %(default)s)",
    )
    parser.add_argument(
        "--duplicates",
        action=argparse.BooleanOptionalAction,
        help="list near-duplicates separately, or group them under the best match "
        "(default: grouped in an index of files, separate in the index of a run)",
    )
    add_moved_model(parser)
    index_options = parser.add_mutually_exclusive_group()
    add_index(index_options)
    index_options.add_argument(
        "--model_dir",
        metavar="RUN",
        help="search the index of a finished run, such as saved_models/icons",
    )
    output_formats = parser.add_mutually_exclusive_group()
    output_formats.add_argument(
        "--json", action="store_true", help="print JSON instead of tables"
    )
    output_formats.add_argument(
        "--paths", action="store_true", help="print only the paths, one per line"
    )
    parser.add_argument(
        "-0",
        "--null",
        action="store_true",
        help="print only the paths, each followed by a null byte, for xargs -0",
    )


def run(arguments: argparse.Namespace) -> int:
    from align_keras.search.image_index import Index
    from align_keras.search.query.photo_advice import photo_advice

    queries = _queries(arguments)
    index_folder, model = _index_and_model(arguments)
    index = Index.open(index_folder, model)
    results = [(query, index.query(query)) for query in queries]
    if arguments.paths or arguments.null:
        _print_paths(results, "\0" if arguments.null else "\n")
    elif arguments.json:
        print_json({"queries": [_as_json(query, hits) for query, hits in results]})
    else:
        for query, hits in results:
            print_hits(query.title or query.where or "", hits)
        advice = [photo_advice(index.store, hits) for _, hits in results]
        # The advice is the same for all queries.
        for line in set(filter(None, advice)):
            print(without_control_characters(f"{line.reason}: {line.command}"))
    return 0


def _index_and_model(
    arguments: argparse.Namespace,
) -> "tuple[str | None, str | Embedder | None]":
    """Returns the index and the model that the options select.

    A value is None if no option sets it.
    """
    if arguments.model_dir is None:
        return arguments.index, read_model_options(arguments)
    from align_keras.runs.run_folder import check_searchable, searched_model

    check_searchable(arguments.model_dir)
    if arguments.model is None:
        arguments.model = os.fspath(searched_model(arguments.model_dir))
    return os.path.join(arguments.model_dir, "index"), read_model_options(arguments)


def _queries(arguments: argparse.Namespace) -> "list[Query]":
    """Returns the queries of the command.

    Each image is a query. Without images, each text is a query. Without both, the
    condition of `--where` is the only query.
    """
    from align_keras.search.query.query import Query, check_words

    texts = arguments.text
    images = arguments.image or []
    words = [*arguments.plus, *arguments.minus]
    if arguments.plus_image and not images:
        raise InputError(
            "`plus_image` must be used with `image`. Received: "
            f"plus_image={arguments.plus_image[0]} without an image. Set `image` for "
            "the first image."
        )
    is_condition = bool(arguments.where) and not (texts or images or words)
    if not is_condition:
        check_words(texts, images, words)
    names = ("plus", "minus", "where", "k", "duplicates", "text_weight")
    options = {name: getattr(arguments, name) for name in names}
    if images:
        added = arguments.plus_image
        return [Query(texts, [image, *added], **options) for image in images]
    if is_condition:
        return [Query(**options)]
    return [Query(text, **options) for text in texts]


def _as_json(query: "Query", hits: "list[Hit]") -> dict[str, Any]:
    """Returns a query and its hits as one object of the JSON output."""
    return {
        "text": list(query.text),
        "plus": list(query.plus),
        "minus": list(query.minus),
        "image": query.images[0] if query.images else None,
        "plus_images": query.images[1:],
        "where": query.where,
        "hits": [dataclasses.asdict(hit) for hit in hits],
    }


def _print_paths(results: "list[tuple[Query, list[Hit]]]", end: str) -> None:
    """Prints paths as bytes, because file names may be invalid UTF-8.

    Args:
        results: queries with their hits.
        end: printed after each path.
    """
    sys.stdout.flush()
    binary_stdout = getattr(sys.stdout, "buffer", None)
    text = "".join(f"{hit.file}{end}" for _, hits in results for hit in hits)
    if binary_stdout is None:
        # A program has replaced stdout by a stream without bytes, such as `StringIO`.
        sys.stdout.write(text)
    else:
        binary_stdout.write(os.fsencode(text))


def print_hits(title: str, hits: "list[Hit]") -> None:
    """Prints a line for each hit, which the terminal may wrap anywhere.

    A path that wraps in a table could not be copied from the terminal.
    """
    if not hits:
        print(f"{without_control_characters(title)}: no images match the search.")
        return
    print(without_control_characters(title))
    for hit in hits:
        cells = [f"{name} {text}" for name, text in _cells(hit).items() if text]
        print(without_control_characters(f"{hit.rank}. {' | '.join(cells)}"))


def _cells(hit: "Hit") -> dict[str, str]:
    """Returns a dict from the names to the printed values of a hit."""
    duplicates = f" (duplicates: {len(hit.duplicates)})" if hit.duplicates else ""
    return {
        "score": "" if hit.score is None else f"{hit.score:.3f}",
        "match": "" if hit.relevance is None else f"{hit.relevance:.0%}",
        "path": hit.path + duplicates,
        "date": str(hit.columns.get("date") or "")[:10],
        "caption": _shorten_captions(hit.captions),
    }


def _shorten_captions(captions: list[str]) -> str:
    """Returns the first captions and the number of the remaining captions.

    An image may have hundreds of captions.
    """
    text = " | ".join(captions[:_MAX_CAPTIONS])
    remaining = len(captions) - _MAX_CAPTIONS
    return f"{text} | {remaining:,} more" if remaining > 0 else text
