"""Files of a source of existing shards, from a path, a pattern or an address."""

import errno
import glob
import os
import re
from concurrent.futures import ThreadPoolExecutor

from align_keras.corpus.sources.source_files import (
    SourceFile,
    is_folder,
    list_files,
    one_file,
)
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError
from align_keras.utils.remote import absolute_path
from align_keras.utils.remote_requests import file_system

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_PATTERN = re.compile(r"[*?[]|" + _RANGE.pattern)
_SUFFIXES = {
    "webdataset": (".tar",),
    "tfrecord": (".tfrecord", ".tfrecords"),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
}
_KIND_BY_SUFFIX = {
    suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes
}
# Kinds of shards for which img2dataset also writes a Parquet table as a log.
_KINDS_WITH_LOG_TABLES = ("webdataset", "tfrecord")


def find_shards(name: str) -> tuple[str, str, list[SourceFile]]:
    """Returns the kind, the folder and the files of a source.

    Args:
        name: a source as in `align_keras.datasets.open_sources`.

    Raises:
        InputError: If the files have no known kind or several kinds.
    """
    prefix, _, path_after_prefix = name.partition(":")
    if prefix in _SUFFIXES and path_after_prefix:
        kind, path = prefix, path_after_prefix
    else:
        kind, path = None, name
    path = absolute_path(path)
    root, files = _listed(path)
    suffixes = _SUFFIXES[kind] if kind else tuple(_KIND_BY_SUFFIX)
    if len(files) != 1 or not kind:
        files = [file for file in files if file.name.lower().endswith(suffixes)]
    shards = {
        os.path.splitext(file.name)[0]
        for file in files
        if _kind(file) in _KINDS_WITH_LOG_TABLES
    }
    files = [
        file
        for file in files
        # Excludes the tables that img2dataset writes next to its shards, and the caches
        # of Hugging Face's `datasets`.
        if not (_kind(file) == "parquet" and file.name[: -len(".parquet")] in shards)
        and not os.path.basename(file.name).startswith("cache-")
    ]
    kinds = {kind or _kind(file) or "" for file in files}
    if len(kinds) != 1:
        problem = "which has no such files"
        if kinds:
            problem = f"which has files of the kinds {' and '.join(sorted(kinds))}"
        raise InputError(
            "A source must be webdataset tars, TFRecord, Parquet or Arrow files "
            f"({', '.join(_KIND_BY_SUFFIX)}), or a built corpus. Received: {name!r}, "
            f"{problem}. Check the path, or prefix it with the kind, as in "
            "webdataset:PATH."
        )
    return kinds.pop(), root, files


def _kind(file: SourceFile) -> str | None:
    """Returns the kind of a file by its suffix, or None if it is unknown."""
    return _KIND_BY_SUFFIX.get(os.path.splitext(file.name)[1].lower())


def _listed(path: str) -> tuple[str, list[SourceFile]]:
    """Returns the folder and the files of a path, a pattern or a folder."""
    special = _PATTERN.search(path)
    if special is None:
        if is_folder(path):
            return path, list_files(path, tuple(_KIND_BY_SUFFIX))
        file = one_file(path)
        return os.path.dirname(path), [file] if file else []
    root, paths = path[: special.start()].rpartition("/")[0], [path]
    while paths and (match := _RANGE.search(paths[0])):
        first, last = match[1], match[2]
        numbers = [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
        paths = [
            _RANGE.sub(number, pattern, count=1)
            for pattern in paths
            for number in numbers
        ]
    if re.search(r"[*?[]", path):
        # Patterns can overlap, such as a1*.tar and a11*.tar of a{1..12}*.tar.
        paths = sorted({match for pattern in paths for match in _glob(pattern)})
    # An object store needs one request for each file.
    with ThreadPoolExecutor(16) as pool:
        files_or_none = list(pool.map(one_file, paths))
    files = []
    for path, file in zip(paths, files_or_none, strict=True):
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        files.append(file._replace(name=path[len(root) + 1 :]))
    return root, files


def _glob(pattern: str) -> list[str]:
    if not is_url(pattern):
        return glob.glob(pattern, recursive=True)
    fs, path = file_system(pattern)
    scheme = pattern.partition("://")[0]
    return [f"{scheme}://{object_path.lstrip('/')}" for object_path in fs.glob(path)]
