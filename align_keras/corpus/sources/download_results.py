"""Results of img2dataset's downloads, to list the images that are still missing.

img2dataset writes a table NAME.parquet for each shard NAME, with the columns `url`,
`caption`, `status` and `error_message`.
"""

import array
import collections
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator

import numpy as np

from align_keras.corpus.opt_out import OPTED_OUT
from align_keras.corpus.parquet_tables import arrow_errors_as_os_errors, open_parquet
from align_keras.corpus.sources.pair import SourcePair
from align_keras.corpus.sources.source_files import list_files
from align_keras.utils.errors import InputError

# Results of an address, in addition to the reasons of failed downloads.
DOWNLOADED = "downloaded"
NOT_TRIED = "not tried"
_SHARD_SUFFIXES = (".tar", ".tfrecord")
_ROWS_PER_BATCH = 4096
_HTTP_ERROR = "HTTP Error "
# Request Timeout, Too Early and Too Many Requests. Errors of a server from 500 to 599
# may pass too.
_PASSING_STATUSES = (408, 425, 429)
# Parts of the messages of connection errors that may pass, in lower case. img2dataset
# records the messages of urllib and of the operating system.
_CONNECTION_ERRORS = (
    "connection refused",
    "connection reset",
    "connection aborted",
    "software caused connection abort",
    "broken pipe",
    "remote end closed connection",
    "incompleteread",
    "eof occurred",
    "network is unreachable",
    "no route to host",
    "temporary failure in name resolution",
)
# Parts of the messages for hosts that do not exist, in lower case.
_UNKNOWN_HOSTS = (
    "name or service not known",
    "no address associated with hostname",
    "nodename nor servname provided",
)


@dataclasses.dataclass(frozen=True)
class DownloadFailure:
    """Reason why a download failed.

    Attributes:
        reason: such as `"HTTP 404"` or `"timeout"`.
        may_pass: True if another attempt may succeed.
    """

    reason: str
    may_pass: bool


def download_failure(status: str, message: str) -> DownloadFailure:
    """Returns the reason of a failed download.

    Args:
        status: status that img2dataset recorded, other than "success".
        message: error message that img2dataset recorded.

    Example:

    >>> download_failure("failed_to_download", "HTTP Error 503: Service Unavailable")
    DownloadFailure(reason='HTTP 503', may_pass=True)
    """
    if status == "failed_to_resize":
        return DownloadFailure("not decoded", may_pass=False)
    if message.startswith(_HTTP_ERROR):
        code = message.removeprefix(_HTTP_ERROR).partition(":")[0]
        may_pass = code.isdecimal() and (
            int(code) in _PASSING_STATUSES or 500 <= int(code) < 600
        )
        return DownloadFailure(f"HTTP {code[:3]}", may_pass)
    lower_message = message.lower()
    if "x-robots-tag" in lower_message:
        return DownloadFailure(OPTED_OUT, may_pass=False)
    if "timed out" in lower_message:
        return DownloadFailure("timeout", may_pass=True)
    if any(text in lower_message for text in _CONNECTION_ERRORS):
        return DownloadFailure("connection error", may_pass=True)
    if any(text in lower_message for text in _UNKNOWN_HOSTS):
        return DownloadFailure("unknown host", may_pass=False)
    return DownloadFailure("other error", may_pass=False)


class DownloadResults:
    """Results of downloads by address. `read_download_results` creates it.

    It stores 64-bit digests of the addresses, 8 bytes for each downloaded image and 16
    for each failure.

    Args:
        downloaded: digests of downloaded images, uint64.
        failed: digests of the addresses whose download failed, uint64.
        failure_numbers: position in `failures` for each digest of `failed`, int64.
        incomplete: paths of the shards without a complete table of results.
    """

    def __init__(
        self,
        downloaded: np.ndarray,
        failed: np.ndarray,
        failure_numbers: np.ndarray,
        failures: list[DownloadFailure],
        incomplete: list[str],
    ) -> None:
        self.failures = failures
        self.incomplete = incomplete
        self._downloaded = np.sort(downloaded)
        # A failure that does not pass is before a failure that may pass. If an address
        # was tried several times, `searchsorted` finds the former.
        may_pass = np.array([failure.may_pass for failure in failures], bool)
        order = np.lexsort((may_pass[failure_numbers], failed))
        self._failed = failed[order]
        self._failure_numbers = failure_numbers[order]

    def failure(self, url: str) -> DownloadFailure | None:
        """Returns the failure of an address, or None if no download failed."""
        position = _position(self._failed, _digest(url))
        if position is None:
            return None
        return self.failures[self._failure_numbers[position]]

    def is_downloaded(self, url: str, caption: str) -> bool:
        """Returns True if an image was downloaded with a caption.

        Shards without captions match any caption.
        """
        digests = (_digest(url, caption), _digest(url))
        return any(
            _position(self._downloaded, digest) is not None for digest in digests
        )


def _digest(url: str, caption: str | None = None) -> int:
    """Returns a 64-bit digest of an address with or without a caption."""
    text = url if caption is None else f"{url}\n{caption}"
    content = text.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _position(digests: np.ndarray, digest: int) -> int | None:
    """Returns the first position of a digest in a sorted array, or None."""
    position = int(np.searchsorted(digests, np.uint64(digest)))
    is_equal = position < len(digests) and int(digests[position]) == digest
    return position if is_equal else None


def read_download_results(folders: Iterable[str | os.PathLike]) -> DownloadResults:
    """Reads the results that img2dataset recorded next to its shards.

    Args:
        folders: paths or addresses of folders with shards of img2dataset, in any of its
            formats.

    Returns:
        `DownloadResults`. A shard that img2dataset did not finish counts as
        incomplete, because img2dataset downloads it again.

    Raises:
        InputError: if a folder has no table of results, or a table has no columns
            `url` and `status`.
        OSError: if a folder or a table cannot be read.
    """
    downloaded = array.array("Q")
    failed = array.array("Q")
    failure_numbers = array.array("q")
    numbers: dict[DownloadFailure, int] = {}
    incomplete: list[str] = []
    for folder in folders:
        tables, unfinished = _list_tables(os.fspath(folder))
        incomplete += unfinished
        for table in tables:
            try:
                rows = list(_read_results(table))
            except OSError as error:
                # An error of pyarrow has no `errno`. It means that the end of the file
                # is missing.
                if error.errno is not None:
                    raise
                incomplete.append(table)
                continue
            for url, caption, failure in rows:
                if failure is None:
                    downloaded.append(_digest(url, caption))
                else:
                    failed.append(_digest(url))
                    number = numbers.setdefault(failure, len(numbers))
                    failure_numbers.append(number)
    return DownloadResults(
        np.array(downloaded, np.uint64),
        np.array(failed, np.uint64),
        np.array(failure_numbers, np.int64),
        list(numbers),
        incomplete,
    )


def _list_tables(folder: str) -> tuple[list[str], list[str]]:
    """Returns the paths of the tables of results, and of the shards without a table."""
    files = list_files(folder, (".parquet", *_SHARD_SUFFIXES))
    names = [os.path.splitext(file.name) for file in files]
    stems = {stem for stem, suffix in names if suffix.lower() == ".parquet"}
    if not stems:
        raise _unreadable(folder, "no file NAME.parquet")
    tables = [stem + suffix for stem, suffix in names if stem in stems]
    tables = [name for name in tables if name.lower().endswith(".parquet")]
    unfinished = [stem + suffix for stem, suffix in names if stem not in stems]
    return (
        [os.path.join(folder, name) for name in tables],
        [os.path.join(folder, name) for name in unfinished],
    )


def _read_results(
    path: str,
) -> Iterator[tuple[str, str | None, DownloadFailure | None]]:
    """Yields (url, caption or None, failure or None) of each row of a table."""
    with open_parquet(path) as table, arrow_errors_as_os_errors():
        names = table.schema_arrow.names
        if "url" not in names or "status" not in names:
            raise _unreadable(path, f"the columns {', '.join(names)}")
        wanted = {"url", "caption", "status", "error_message"}
        columns = [name for name in names if name in wanted]
        for batch in table.iter_batches(_ROWS_PER_BATCH, columns=columns):
            for row in batch.to_pylist():
                status = str(row["status"])
                failure = None
                if status != "success":
                    message = str(row.get("error_message"))
                    failure = download_failure(status, message)
                caption = str(row["caption"] or "") if "caption" in row else None
                yield str(row["url"]), caption, failure


def _unreadable(path: str, problem: str) -> InputError:
    return InputError(
        "`downloaded` must be a folder of shards that img2dataset wrote, with a table "
        "NAME.parquet of the columns url and status for each shard. Received: "
        f"{path} ({problem}). Check the path."
    )


def missing_pairs(
    pairs: Iterable[SourcePair],
    results: DownloadResults,
    missing: collections.Counter[str],
    skipped: collections.Counter[str],
) -> Iterator[SourcePair]:
    """Yields the pairs whose images must still be downloaded.

    These are the images that were not tried, and the images whose download failed for a
    reason that may pass.

    Args:
        pairs: `SourcePair`s of remote images.
        results: results of earlier downloads.
        missing: counter of the yielded pairs by the last result. It is updated.
        skipped: counter of the other pairs by their result. It is updated.

    Example:

    >>> empty = np.array([], np.uint64)
    >>> results = DownloadResults(empty, empty, np.array([], np.int64), [], [])
    >>> missing, skipped = collections.Counter(), collections.Counter()
    >>> pairs = [SourcePair("https://example.org/a.jpg", "A cat")]
    >>> list(missing_pairs(pairs, results, missing, skipped)) == pairs, missing
    (True, Counter({'not tried': 1}))
    """
    for pair in pairs:
        if results.is_downloaded(pair.image, pair.caption):
            skipped[DOWNLOADED] += 1
            continue
        failure = results.failure(pair.image)
        if failure is not None and not failure.may_pass:
            skipped[failure.reason] += 1
            continue
        missing[NOT_TRIED if failure is None else failure.reason] += 1
        yield pair
