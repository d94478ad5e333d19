"""`align-keras index`: builds or updates the search index of image folders."""

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from align_keras.cli.common import model_to_open
from align_keras.embedders.locations import MODEL_HELP, RUNTIME_HELP
from align_keras.utils.errors import InputError, needs
from align_keras.utils.files import MAX_FILE_BYTES, MAX_PIXELS, atomic_write
from align_keras.utils.progress import say
from align_keras.utils.tasks import ENGINE_HELP, LOCAL

if TYPE_CHECKING:
    from align_keras.search.image_index import Index
    from align_keras.search.indexing import Changes

# Number of files that the summary names for each reason.
_EXAMPLES = 3
# Seconds between two checks for roots that were deleted or created again.
_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        'align-keras search "a red bicycle" then searches it. Run again, the command '
        "embeds what is new or has changed and drops what is gone."
    )
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="folder of images, with its subfolders, a corpus by `corpus build`, or "
        "table of images with captions (.csv, .tsv, .jsonl), whose columns --where of "
        "search may name; folders and tables also at s3://, gs:// or hf://, tables at "
        "https://; without any, those that the index has",
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
        help=f"{MODEL_HELP} (default: align_small_en, or the model of the index)",
    )
    parser.add_argument("--runtime", metavar="R", help=RUNTIME_HELP)
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="embed everything anew, for another --model; the old index is searched "
        "until the new one takes its place",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="go on with what changes in the folders, until interrupted",
    )
    parser.add_argument(
        "--left-out",
        metavar="FILE",
        help="write all files that can't be read to FILE, a line each: the reason, a "
        "tab, the path",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare every embedding with its checksum and end; a run without it "
        "compares 100,000, other ones each time",
    )
    parser.add_argument("--engine", default=LOCAL, metavar="E", help=ENGINE_HELP)
    parser.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="PATH",
        help="drop an image, a folder or a table from the index; the files stay; "
        "repeatable",
    )


def run(arguments: argparse.Namespace) -> int:
    from align_keras.search.image_index import Index, default_index, is_database
    from align_keras.search.store import Store

    folder = arguments.to or default_index()
    is_new = not is_database(folder) and not Store.is_there(folder)
    if not arguments.sources and is_new:
        raise InputError(
            "`sources` must name a folder or a table the first time, received none; "
            "run `align-keras index FOLDER`."
        )
    if arguments.check:
        if arguments.sources or arguments.rebuild or arguments.watch:
            raise InputError(
                "`check` must come without `sources`, `rebuild` and `watch`, received "
                "one of them; leave it out."
            )
        count = Index.open(folder).check()
        print(f"{count:,} embeddings of {folder} are as they were written")
        return 0
    if arguments.watch:
        with needs("watch", "`watch` needs watchfiles"):
            from watchfiles import watch
    model = model_to_open(arguments)
    if arguments.remove:
        count = Index.open(folder, model).remove(arguments.remove)
        say(f"images dropped from {folder}: {count:,}")
        if not arguments.sources:
            return 0
    build = Index.rebuild if arguments.rebuild else Index.build
    engine = arguments.engine
    index = build(folder, arguments.sources, model, engine=engine)
    # `build` and `rebuild` set the changes. `open` does not.
    changes = cast("Changes", index.changes)
    print(_summary(changes))
    if arguments.left_out:
        count = _write_left_out(arguments.left_out, changes)
        say(f"files left out: {count:,}, listed in {arguments.left_out}")
    say(f"{len(index):,} images in {folder}")
    if arguments.watch:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(index, engine, watch)
    return 0


def _watch(index: "Index", engine: str, watch: Callable) -> None:
    """Updates the index whenever a file changes, until interrupted.

    Args:
        index: `Index`.
        engine: str, as `Index.add` takes it.
        watch: `watchfiles.watch`.
    """
    roots = [os.fsdecode(root) for root in index.store.sources()]
    say(f"watching {', '.join(roots)}; interrupt to end")
    while True:
        present = _identities(roots)
        if not present:
            time.sleep(_SECONDS)
            continue
        with contextlib.suppress(FileNotFoundError):  # A root was deleted.
            _watch_present(index, engine, watch, roots, present)


def _watch_present(
    index: "Index",
    engine: str,
    watch: Callable,
    roots: list[str],
    present: dict[str, tuple[int, int]],
) -> None:
    """Updates the index as `_watch` does, until the set of present roots changes.

    The operating system watches a folder by its identity and not by its name, so a root
    that is deleted, created or created again needs a new watch.
    """
    timeout = int(1000 * _SECONDS)
    changes = watch(*present, yield_on_timeout=True, rust_timeout=timeout)
    with contextlib.closing(changes):
        has_begun = False
        for changed_files in changes:
            if _identities(roots) != present:
                return
            # The watch does not report changes from before it began.
            if changed_files or not has_begun:
                _update(index, engine)
            has_begun = True


def _update(index: "Index", engine: str) -> None:
    """Updates the index and prints a summary if anything changed."""
    changes = index.add((), engine)
    if changes.added or changes.changed or changes.renamed or changes.gone:
        print(_summary(changes), flush=True)


def _identities(roots: list[str]) -> dict[str, tuple[int, int]]:
    """Returns device and inode of each root that exists."""
    identities: dict[str, tuple[int, int]] = {}
    for root in roots:
        with contextlib.suppress(OSError):
            status = os.stat(root)
            identities[root] = status.st_dev, status.st_ino
    return identities


def _summary(changes: "Changes") -> str:
    """Returns the counts of a run, with a line for each reason to leave files out."""
    names = ("added", "changed", "renamed", "gone", "unchanged")
    lines = [", ".join(f"{getattr(changes, name):,} {name}" for name in names)]
    for reason, count in sorted(changes.unreadable.items()):
        files = [
            file for file_reason, file in changes.left_out if file_reason == reason
        ]
        examples = files[:_EXAMPLES]
        line = f"{count:,} left out: {reason}"
        if files:
            unnamed = count - len(examples)
            ending = f" and {unnamed:,} more, see --left-out" if unnamed > 0 else ""
            line += f" ({', '.join(examples)}{ending})"
        remedy = _remedies().get(reason)
        lines.append(line + (f"; {remedy}" if remedy else ""))
    return "\n".join(lines)


def _remedies() -> dict[str, str]:
    """Returns the remedy for each reason to leave a file out, where there is one."""
    from align_keras.search.image_files import NO_HEIF, UNREAD_FORMAT

    return {
        "oversized": f"reduce them to at most {MAX_PIXELS:,} pixels (width × height) "
        f"and {MAX_FILE_BYTES:,} bytes",
        NO_HEIF: 'run `pip install "align-keras[heic]"`',
        UNREAD_FORMAT: "convert them to JPEG or PNG",
    }


def _write_left_out(path: str, changes: "Changes") -> int:
    """Writes reason and path of each file that cannot be read. Returns their number."""
    with atomic_write(path) as file:
        for reason, name in sorted(changes.left_out):
            # A path may contain a line break or a tab.
            name = name.replace("\\", "\\\\").replace("\n", "\\n")
            name = name.replace("\t", "\\t").replace("\r", "\\r")
            file.write(f"{reason}\t{name}\n")
    return len(changes.left_out)
