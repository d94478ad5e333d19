"""Web pages read in another process, which no page can hold up or fill: a few kilobytes
can take a browser-like parser hours and all memory, and no count tells beforehand.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from typing import IO, Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.html_pairs import WebPair, decode_html, extract_pairs
from align_keras.utils.errors import InputError

# Seconds of the processor, so that a busy machine loses no page.
MAX_SECONDS = 5
MAX_READER_BYTES = 800_000_000
_lock = threading.Lock()
_process: "_ReaderProcess | None" = None


@dataclasses.dataclass(frozen=True)
class _ReaderProcess:
    """Process that reads pages, with its pipes."""

    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    answers: IO[bytes]


class PageError(ValueError):
    """A page that can't be read within the limits; the message says which."""


def read_page(
    content: bytes, base_url: str, counter: DropCounter, charset: str | None = None
) -> list[WebPair]:
    """Reads a page as `extract_pairs`, within limits, or raises `PageError`."""
    task = {"size": len(content), "base_url": base_url, "charset": charset}
    task |= {"seconds": MAX_SECONDS, "bytes": MAX_READER_BYTES}
    with _lock:
        answer = _ask(json.dumps(task).encode() + b"\n" + content)
    if "mistake" in answer:
        raise InputError(answer["mistake"])
    if "fault" in answer:
        raise PageError(answer["fault"])
    counter.add(DropCounter.from_metadata(answer["counts"]))
    return [WebPair(*pair) for pair in answer["pairs"]]


def _ask(task: bytes) -> dict[str, Any]:
    global _process
    if _process is None:
        _process = _started()
    try:
        with contextlib.suppress(BrokenPipeError):  # It may end before it read all.
            _process.requests.write(task)
            _process.requests.flush()
        answer = _process.answers.readline()
        if answer:
            return json.loads(answer)
        code = _process.process.wait()
    except BaseException:  # After Ctrl-C, the next task would get this one's answer.
        _process.process.kill()
        _end()
        raise
    _end()
    if code == -getattr(signal, "SIGPROF", 0):
        return {"fault": f"takes more than {MAX_SECONDS} seconds"}
    return {"fault": f"the parser failed (exit code {code})"}


def _started() -> _ReaderProcess:
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    requests, answers = process.stdin, process.stdout
    if requests is None or answers is None or answers.readline() != b"ready\n":
        raise InputError(
            "web pages are read in another process, which must start, but "
            f"`{sys.executable} -m {__name__}` ended with exit code {process.wait()}; "
            "run it to see why."
        )
    return _ReaderProcess(process, requests, answers)


@atexit.register
def _end() -> None:
    """Ends the process, if there is one."""
    global _process
    if _process is not None:
        with contextlib.suppress(OSError):  # The process may have ended before.
            _process.requests.close()
        _process.answers.close()
        _process.process.wait()
        _process = None


def _after_fork() -> None:
    """Leaves the process to the parent, where a user's program forks."""
    global _lock, _process
    _lock, _process = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def answer_requests() -> None:
    """Answers with a line of JSON a page, until there are no more."""
    # Ctrl-C reaches all processes of a terminal; the parent answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, out = sys.stdin.buffer, sys.stdout.buffer
    taken = _memory()
    out.write(b"ready\n")
    out.flush()
    while line := requests.readline():
        task = json.loads(line)
        _limit(taken + task["bytes"], task["seconds"])
        answer = _answer(requests.read(task["size"]), task["base_url"], task["charset"])
        out.write(answer + b"\n")
        out.flush()


def _answer(content: bytes, base_url: str, charset: str | None) -> bytes:
    counter = DropCounter()
    try:
        pairs = list(extract_pairs(decode_html(content, charset), base_url, counter))
        return json.dumps({"pairs": pairs, "counts": counter.as_metadata()}).encode()
    except InputError as error:
        answer = {"mistake": str(error)}
    except MemoryError:
        answer = {"fault": "takes too much memory"}
    except Exception as error:  # Nothing in one page may stop the others.
        answer = {"fault": f"{type(error).__name__}: {error}"}
    return json.dumps(answer).encode()


def _memory() -> int:
    """Returns the bytes of memory that this process has, 0 where that isn't told."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _limit(memory: int, seconds: float) -> None:
    """Ends this process after so many seconds from now; memory beyond isn't given."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
    if sys.platform == "linux":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        memory = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_AS, (memory, most))


if __name__ == "__main__":
    answer_requests()
