"""Web pages read in another process, which no page can hold up or fill: a few kilobytes
can take a browser-like parser hours and all memory, and no count tells beforehand.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.html_pairs import WebPair, decode_html, extract_pairs
from align_keras.utils.errors import InputError

# Of the processor, so that a busy machine loses no page.
MAX_SECONDS = 5
MAX_BYTES = 800_000_000
_lock = threading.Lock()
_process = None


class PageError(ValueError):
    """A page that can't be read within the limits; the message says which."""


def read_page(
    content: bytes, base_url: str, counter: DropCounter, charset: str | None = None
) -> list[WebPair]:
    """Reads a page as `extract_pairs`, within limits, or raises `PageError`."""
    task = {"size": len(content), "base_url": base_url, "charset": charset}
    task |= {"seconds": MAX_SECONDS, "bytes": MAX_BYTES}
    with _lock:
        answer = _ask(json.dumps(task).encode() + b"\n" + content)
    if "mistake" in answer:
        raise InputError(answer["mistake"])
    if "fault" in answer:
        raise PageError(answer["fault"])
    counter.add(DropCounter.from_metadata(answer["counts"]))
    return [WebPair(*pair) for pair in answer["pairs"]]


def _ask(task):
    global _process
    if _process is None:
        _process = _started()
    try:
        with contextlib.suppress(BrokenPipeError):  # It may end before it read all.
            _process.stdin.write(task)
            _process.stdin.flush()
        answer = _process.stdout.readline()
        if answer:
            return json.loads(answer)
        code = _process.wait()
    except BaseException:  # Such as Ctrl-C: its answer would be taken for another's.
        _process.kill()
        _end()
        raise
    _end()
    if code == -getattr(signal, "SIGPROF", 0):
        return {"fault": f"takes more than {MAX_SECONDS} seconds"}
    return {"fault": f"the parser failed (exit code {code})"}


def _started():
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    if process.stdout.readline() != b"ready\n":
        raise InputError(
            "web pages are read in another process, which must start, but "
            f"`{sys.executable} -m {__name__}` ended with exit code {process.wait()}; "
            "run it to see why."
        )
    return process


@atexit.register
def _end():
    """Ends the process, if there is one."""
    global _process
    if _process is not None:
        with contextlib.suppress(OSError):  # What was never written.
            _process.stdin.close()
        _process.stdout.close()
        _process.wait()
        _process = None


def _after_fork():
    """Leaves the process to the parent, where a user's program forks."""
    global _lock, _process
    _lock, _process = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def main() -> None:
    """Answers with a line of JSON a page, until there are no more."""
    # Ctrl-C reaches all processes of a terminal; the parent answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given, out = sys.stdin.buffer, sys.stdout.buffer
    taken = _memory()
    out.write(b"ready\n")
    out.flush()
    while line := given.readline():
        task = json.loads(line)
        _limit(taken + task["bytes"], task["seconds"])
        answer = _answer(given.read(task["size"]), task["base_url"], task["charset"])
        out.write(answer + b"\n")
        out.flush()


def _answer(content, base_url, charset):
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


def _memory():
    """Returns the bytes of memory that this process has, 0 where that isn't told."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _limit(memory, seconds):
    """Ends this process after so many seconds from now; memory beyond isn't given."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
    if sys.platform == "linux":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        memory = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_AS, (memory, most))


if __name__ == "__main__":
    main()
