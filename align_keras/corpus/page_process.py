"""Parsing of web pages in a separate process with limits on time and memory.

An HTML page of a few kilobytes can occupy the parser for hours or fill the memory. Such
a page cannot be detected in advance.
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

# Seconds of processor time per page. Elapsed time would drop pages on a busy machine.
MAX_SECONDS = 5
# Memory that a page may use in addition to the memory of the idle process.
MAX_READER_BYTES = 800_000_000
_lock = threading.Lock()
_process: "_ReaderProcess | None" = None


@dataclasses.dataclass(frozen=True)
class _ReaderProcess:
    """Process that parses pages, with its pipes.

    Attributes:
        process: `subprocess.Popen`.
        requests: file, standard input of the process. A request is a line of JSON
            followed by the bytes of the page.
        responses: file, standard output of the process. A response is a line of JSON.
    """

    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    responses: IO[bytes]


class PageError(ValueError):
    """Error for a page that cannot be parsed within the limits."""


def read_page(
    content: bytes,
    base_url: str,
    counter: DropCounter,
    charset: str | None = None,
    *,
    honor_opt_out: bool = True,
    any_caption: bool = False,
) -> list[WebPair]:
    """Runs `extract_pairs` on a page in the separate process.

    Args:
        content: bytes of the page.
        base_url: address of the page.
        counter: `DropCounter` for the dropped pairs of the page.
        charset: encoding in the HTTP header, or None.
        honor_opt_out: as in `extract_pairs`.
        any_caption: as in `extract_pairs`.

    Returns:
        list of `WebPair`.

    Raises:
        PageError: if the page exceeds a limit or crashes the parser.
        InputError: if the process does not start or a package is missing.
    """
    request = {
        "size": len(content),
        "base_url": base_url,
        "charset": charset,
        "honor_opt_out": honor_opt_out,
        "any_caption": any_caption,
        "seconds": MAX_SECONDS,
        "bytes": MAX_READER_BYTES,
    }
    with _lock:
        response = _send_request(json.dumps(request).encode() + b"\n" + content)
    if "input_error" in response:
        raise InputError(response["input_error"])
    if "page_error" in response:
        raise PageError(response["page_error"])
    counter.add(DropCounter.from_metadata(response["counts"]))
    return [WebPair(*pair) for pair in response["pairs"]]


def _send_request(request: bytes) -> dict[str, Any]:
    """Starts the process if necessary, sends a request and returns the response."""
    global _process
    if _process is None:
        _process = _start_process()
    try:
        # The process may end before it has read the whole request.
        with contextlib.suppress(BrokenPipeError):
            _process.requests.write(request)
            _process.requests.flush()
        response = _process.responses.readline()
        if response:
            return json.loads(response)
        code = _process.process.wait()
    except BaseException:
        # After Ctrl-C the response to this request is still unread. Without a new
        # process, the next request would read this response.
        _process.process.kill()
        _stop_process()
        raise
    _stop_process()
    if code == -getattr(signal, "SIGPROF", 0):
        return {"page_error": f"takes more than {MAX_SECONDS} seconds"}
    return {"page_error": f"the parser failed (exit code {code})"}


def _start_process() -> _ReaderProcess:
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    requests, responses = process.stdin, process.stdout
    if requests is None or responses is None or responses.readline() != b"ready\n":
        command = f"{sys.executable} -m {__name__}"
        raise InputError(
            f"The process that parses web pages, `{command}`, must start. Received: "
            f"exit code {process.wait()}. Run the command to see its error."
        )
    return _ReaderProcess(process, requests, responses)


@atexit.register
def _stop_process() -> None:
    global _process
    if _process is not None:
        with contextlib.suppress(OSError):  # The process may have ended already.
            _process.requests.close()
        _process.responses.close()
        _process.process.wait()
        _process = None


def _after_fork() -> None:
    """Resets the globals in a forked child, because the parent uses the process."""
    global _lock, _process
    _lock, _process = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def serve_requests() -> None:
    """Serves requests in the separate process until the parent closes the pipe."""
    # Ctrl-C reaches all processes of a terminal. The parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, responses = sys.stdin.buffer, sys.stdout.buffer
    idle_memory = _used_memory()
    responses.write(b"ready\n")
    responses.flush()
    while line := requests.readline():
        request = json.loads(line)
        _set_limits(idle_memory + request["bytes"], request["seconds"])
        content = requests.read(request["size"])
        response = _parse_page(
            content,
            request["base_url"],
            request["charset"],
            request["honor_opt_out"],
            request["any_caption"],
        )
        responses.write(response + b"\n")
        responses.flush()


def _parse_page(
    content: bytes,
    base_url: str,
    charset: str | None,
    honor_opt_out: bool,
    any_caption: bool,
) -> bytes:
    """Parses a page and returns the response as JSON."""
    counter = DropCounter()
    try:
        html = decode_html(content, charset)
        pairs = list(
            extract_pairs(
                html,
                base_url,
                counter,
                honor_opt_out=honor_opt_out,
                any_caption=any_caption,
            )
        )
        return json.dumps({"pairs": pairs, "counts": counter.as_metadata()}).encode()
    except InputError as error:
        response = {"input_error": str(error)}
    except MemoryError:
        response = {"page_error": "takes too much memory"}
    except Exception as error:  # An error in one page must not stop the process.
        response = {"page_error": f"{type(error).__name__}: {error}"}
    return json.dumps(response).encode()


def _used_memory() -> int:
    """Returns the bytes of memory of this process, or 0 if they are unknown."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _set_limits(memory: int, seconds: float) -> None:
    """Limits the memory in bytes and the processor time of this process."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
    if sys.platform == "linux":
        import resource

        _, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
        if hard_limit != resource.RLIM_INFINITY:
            memory = min(memory, hard_limit)
        resource.setrlimit(resource.RLIMIT_AS, (memory, hard_limit))


if __name__ == "__main__":
    serve_requests()
