"""`align-keras index`: builds or updates the search index of image folders."""

import argparse
import contextlib
import csv
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from align_keras.cli.common import (
    add_dimensions,
    add_index,
    name_addresses,
    read_model_options,
    refuse_empty,
)
from align_keras.embedders.locations import MODEL_HELP, RUNTIME_HELP
from align_keras.utils.errors import InputError, needs
from align_keras.utils.files import atomic_write
from align_keras.utils.progress import say
from align_keras.utils.tasks import ENGINE_HELP, LOCAL

if TYPE_CHECKING:
    from align_keras.search.image_index import Index
    from align_keras.search.index.schema import LeftOutFile
    from align_keras.search.update.changes import Changes

# Number of files that the summary lists for each reason.
_EXAMPLES = 3
# Options that need an update of the index.
_OPTIONS_OF_UPDATE = ("rebuild", "watch", "left_out", "vectors")
# Seconds between two checks whether a root was deleted or created.
_ROOT_CHECK_SECONDS = 1.0
# Seconds until a failed update of `--watch` is repeated without a change of a file. An
# update of a large index lists all its files, which takes seconds.
WATCH_RETRY_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        'Search the index with `align-keras search "a red bicycle"`. Run the command '
        "again to embed new and changed images and to remove deleted images from the "
        "index."
    )
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="folder of images with its subfolders, corpus of `align-keras corpus "
        "build`, or table of images and captions (.csv, .tsv, .jsonl). `align-keras "
        "search --where` can use the columns of a table. Folders and tables may be on "
        "s3://, gs:// or hf://, and tables on https:// (default: the sources in the "
        "index).",
    )
    add_index(parser)
    parser.add_argument(
        "--model",
        metavar="M",
        help=f"{MODEL_HELP} (default: align_small_en, or the model of the index)",
    )
    parser.add_argument("--runtime", metavar="R", help=RUNTIME_HELP)
    add_dimensions(parser)
    parser.add_argument(
        "--vectors",
        metavar="TYPE",
        help="float32 or float16: numbers of the embeddings on disk. float16 takes "
        "half the space of float32. An existing index needs --rebuild (default: "
        "float32, or the numbers of the index).",
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="embed all images again, for example with another --model. Searches use "
        "the old index until the new one is complete.",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="keep running and update the index when files in the folders change",
    )
    parser.add_argument(
        "--left-out",
        metavar="FILE",
        help="write a table of the files that cannot be read, with the columns path, "
        "reason and detail. FILE.csv has commas, and other names have tabs.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare all embeddings with their checksums and exit",
    )
    parser.add_argument(
        "--export",
        metavar="FILE",
        help="write the ids, columns and vectors of the index to FILE.parquet, for "
        "vector databases and data frames. FILE.npy writes FILE.npy, FILE.csv and "
        "FILE.json. Without SOURCE, the index is not updated.",
    )
    parser.add_argument("--engine", default=LOCAL, metavar="E", help=ENGINE_HELP)
    parser.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="PATH",
        help="remove an image, a folder or a table from the index. The files are not "
        "deleted. Repeat the option for several paths.",
    )


def run(arguments: argparse.Namespace) -> int:
    from align_keras.search.image_index import Index
    from align_keras.search.index.folder_store import FolderStore
    from align_keras.search.index.opening import default_index, is_database

    refuse_empty(arguments, ("index", "export", "left_out"))
    folder = arguments.index or default_index()
    shown_folder = name_addresses(folder, arguments)
    is_new = not is_database(folder) and not FolderStore.exists(folder)
    if not arguments.sources and is_new:
        raise InputError(
            "`sources` must contain a folder or a table for a new index. Received: no "
            "source. Run `align-keras index FOLDER`."
        )
    if arguments.check:
        excluded = ("sources", "remove", "export", *_OPTIONS_OF_UPDATE)
        used = next((name for name in excluded if getattr(arguments, name)), None)
        if used is not None:
            raise InputError(
                f"`check` must be used alone. Received: `{used}` too. Run two commands."
            )
        count = Index.open(folder).check()
        print(f"{count:,} embeddings of {shown_folder} match their checksums")
        return 0
    if arguments.watch:
        with needs("watch", "`watch` needs watchfiles"):
            from watchfiles import watch
    model = read_model_options(arguments)
    if arguments.remove:
        count = Index.open(folder, model).remove(arguments.remove)
        say(f"images removed from {shown_folder}: {count:,}")
    if not _is_update(arguments):
        if arguments.export:
            _export(Index.open(folder), arguments.export)
        return 0
    build = Index.rebuild if arguments.rebuild else Index.build
    engine = arguments.engine
    index = build(
        folder, arguments.sources, model, engine=engine, vectors=arguments.vectors
    )
    # `changes` is None only for an index that was opened without an update.
    changes = cast("Changes", index.changes)
    summary = _summary(changes)
    print("\n".join(summary))
    if arguments.left_out:
        count = _write_left_out(arguments.left_out, changes)
        say(f"files left out: {count:,}, listed in {arguments.left_out}")
    say(f"{len(index):,} images in {shown_folder}")
    if arguments.export:
        _export(index, arguments.export)
    if arguments.watch:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(index, engine, watch, summary)
    return 0


def _is_update(arguments: argparse.Namespace) -> bool:
    """Returns True unless the command only removes or exports images."""
    if not (arguments.remove or arguments.export):
        return True
    names = ("sources", *_OPTIONS_OF_UPDATE)
    return any(getattr(arguments, name) for name in names)


def _export(index: "Index", to: str) -> None:
    """Writes the index to files and prints their sizes."""
    for path in index.export(to):
        size = path.stat().st_size / 1e6
        print(f"{path}: {len(index):,} images, {size:,.1f} MB")


def _watch(index: "Index", engine: str, watch: Callable, summary: list[str]) -> None:
    """Updates the index whenever a file changes, until the process is interrupted.

    Args:
        index: `Index`.
        engine: engine of `Index.add`.
        watch: `watchfiles.watch`.
        summary: printed result of `_summary`.
    """
    roots = [os.fsdecode(root) for root in index.store.sources()]
    updates = _WatchUpdates(index, engine, summary)
    say(f"watching {', '.join(roots)}. Press Ctrl+C to stop.")
    while True:
        present_roots = _identities(roots)
        if not present_roots:
            time.sleep(_ROOT_CHECK_SECONDS)
            continue
        # The watch raises this error if a root is deleted before the watch starts.
        with contextlib.suppress(FileNotFoundError):
            _watch_present_roots(updates, watch, roots, present_roots)


class _WatchUpdates:
    """Updates of a watched index, which are repeated after an error.

    Args:
        index: `Index`.
        engine: engine of `Index.add`.
        summary: printed result of `_summary`, whose left-out files are not repeated.
    """

    def __init__(self, index: "Index", engine: str, summary: list[str]) -> None:
        self._index = index
        self._engine = engine
        self._summary = summary
        # Message of the error of the last update, or None.
        self._problem: str | None = None
        self._retry_time = 0.0

    @property
    def is_retry_due(self) -> bool:
        """True if the last update failed and should be repeated now."""
        return self._problem is not None and time.monotonic() >= self._retry_time

    def run(self) -> None:
        """Updates the index, and prints the changes.

        Another process may be writing the index, or a table may be half written. The
        error is printed once, and a later update repeats the work.

        Raises:
            RebuiltIndexError: if the index was built again with another model.
        """
        from align_keras.search.index.database import RebuiltIndexError

        try:
            changes = self._index.add((), self._engine)
        except RebuiltIndexError:
            raise
        except (InputError, OSError) as error:
            if str(error) != self._problem:
                say(f"not updated, trying again: {error}")
            self._problem = str(error)
            self._retry_time = time.monotonic() + WATCH_RETRY_SECONDS
            return
        self._problem = None
        summary = _summary(changes)
        lines = [line for line in summary[1:] if line not in self._summary]
        self._summary = summary
        is_changed = changes.added or changes.changed or changes.renamed
        if is_changed or changes.removed or lines:
            print(*summary[:1], *lines, sep="\n", flush=True)


def _watch_present_roots(
    updates: _WatchUpdates,
    watch: Callable,
    roots: list[str],
    present_roots: dict[str, tuple[int, int]],
) -> None:
    """Updates the index on changes, and returns when a root is deleted or created.

    The operating system watches a folder by its identity and not by its name. A root
    that was deleted or created therefore needs a new watch.

    Args:
        updates: updates of the index.
        watch: `watchfiles.watch`.
        roots: paths of all roots of the index.
        present_roots: device and inode of each root that exists, as returned by
            `_identities`.
    """
    timeout = int(1000 * _ROOT_CHECK_SECONDS)
    changes = watch(*present_roots, yield_on_timeout=True, rust_timeout=timeout)
    with contextlib.closing(changes):
        has_started = False
        for changed_files in changes:
            if _identities(roots) != present_roots:
                return
            # The watch does not report changes from before its start. The first event
            # or timeout therefore always updates the index.
            if changed_files or not has_started or updates.is_retry_due:
                updates.run()
            has_started = True


def _identities(roots: list[str]) -> dict[str, tuple[int, int]]:
    """Returns device and inode of each root that exists."""
    identities: dict[str, tuple[int, int]] = {}
    for root in roots:
        with contextlib.suppress(OSError):
            status = os.stat(root)
            identities[root] = status.st_dev, status.st_ino
    return identities


def _summary(changes: "Changes") -> list[str]:
    """Returns the lines of the summary of a run.

    The first line counts the images by change. Each further line counts the files that
    were left out for one reason.
    """
    names = ("added", "changed", "renamed", "removed", "unchanged")
    lines = [", ".join(f"{getattr(changes, name):,} {name}" for name in names)]
    for reason, count in sorted(changes.unreadable.items()):
        files = [file for file in changes.left_out if file.reason == reason]
        examples = [_example(file) for file in files[:_EXAMPLES]]
        line = f"{count:,} left out: {reason}"
        if files:
            unnamed = count - len(examples)
            ending = f" and {unnamed:,} more, see --left-out" if unnamed > 0 else ""
            line += f" ({', '.join(examples)}{ending})"
        remedy = _remedies().get(reason)
        lines.append(line + (f". {remedy}." if remedy else ""))
    return lines


def _remedies() -> dict[str, str]:
    """Returns a dict from the reason for which a file is left out to its remedy.

    Some reasons, such as an empty file, have no remedy.
    """
    from align_keras.search.readers.image_files import (
        TOO_MANY_BYTES,
        UNSUPPORTED_FORMAT,
    )
    from align_keras.search.readers.raw_preview import NO_PREVIEW, NO_RAW
    from align_keras.utils.pillow_images import NO_HEIC

    return {
        "oversized": "Reduce their width and height",
        TOO_MANY_BYTES: "Convert them to JPEG",
        NO_RAW: 'Run `pip install "align-keras[raw]"`',
        NO_HEIC: 'Run `pip install "align-keras[heic]"`',
        NO_PREVIEW: "Develop them, and index the developed images",
        UNSUPPORTED_FORMAT: "Convert them to JPEG or PNG",
    }


def _example(file: "LeftOutFile") -> str:
    """Returns the path of a file, and the size that exceeds a limit."""
    size, exceeds, _ = file.detail.partition(" are more")
    path = _one_line(file.path)
    return f"{path}: {size}" if exceeds else path


def _one_line(path: str) -> str:
    """Returns a path with escaped control characters.

    The name of a file could otherwise control the terminal or add lines to the summary.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in path
    )


def _write_left_out(path: str, changes: "Changes") -> int:
    """Writes a table of the files that cannot be read, and returns their number."""
    delimiter = "," if path.lower().endswith(".csv") else "\t"
    with atomic_write(path) as file:
        table = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        table.writerow(("path", "reason", "detail"))
        table.writerows(sorted(changes.left_out))
    return len(changes.left_out)
