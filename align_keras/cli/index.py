"""`align-keras index`: has folders of images searched by words and by images."""

import argparse

from align_keras.utils.errors import InputError
from align_keras.utils.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to an `argparse` parser."""
    parser.epilog = (
        'align-keras search "a red bicycle" then searches it. Run again, the command '
        "embeds what is new or has changed and drops what is gone."
    )
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="folder of images, with its subfolders, or table of images with captions "
        "(.csv, .tsv, .jsonl), whose columns --where of search may name; without any, "
        "those that the index has",
    )
    parser.add_argument(
        "--to",
        metavar="INDEX",
        help="folder of the index, or a PostgreSQL database with pgvector, "
        "postgresql://user@host/database (default: $ALIGN_KERAS_INDEX, else "
        "~/.local/share/align_keras/index)",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="a folder of LiteRT towers, a run's folder, an export or "
        "hf://user/model (default: align_small_en, or what the index was made with)",
    )
    parser.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="PATH",
        help="drop an image, a folder or a table from the index; the files stay; "
        "repeatable",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from align_keras.search.image_index import Index, default_index, is_database
    from align_keras.search.store import Store

    folder = arguments.to or default_index()
    is_new = not is_database(folder) and not Store.is_there(folder)
    if not arguments.sources and is_new:
        raise InputError(
            "`sources` must name a folder or a table the first time, received none; "
            "run `align-keras index FOLDER`."
        )
    if arguments.remove:
        count = Index.open(folder, arguments.model).remove(arguments.remove)
        say(f"dropped {count:,} images from {folder}")
        if not arguments.sources:
            return 0
    index = Index.build(folder, arguments.sources, arguments.model)
    print(_summary(index.changes))
    say(f"{len(index):,} images in {folder}")
    return 0


def _summary(changes):
    names = ("added", "changed", "renamed", "gone", "unchanged")
    lines = [", ".join(f"{getattr(changes, name):,} {name}" for name in names)]
    for reason, count in sorted(changes.unreadable.items()):
        example = changes.examples.get(reason)
        lines.append(
            f"{count:,} left out: {reason}" + (f" ({example})" if example else "")
        )
    return "\n".join(lines)
