"""A server of one page on this machine: who may ask, how much, and how errors come.

Requests must name this machine as their host, and come from the page itself or from no
page; errors are answered in JSON; work is done by some threads, for which they wait.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

from align_keras.corpus.image import ImageError
from align_keras.utils.errors import InputError, needs
from align_keras.utils.progress import say

with needs("serve", "the page is served by Starlette and uvicorn"):
    import h11
    import uvicorn
    from starlette.datastructures import Headers
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response, StreamingResponse
    from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_BODY_BYTES = 64_000_000
# Bytes of all bodies that are in memory at once.
MAX_BODIES_BYTES = 128_000_000
# Seconds for a body, and for an answer to be taken.
BODY_SECONDS, SEND_SECONDS = 30, 120
# Seconds for the headers of a request, so that connections without one end.
HEADER_SECONDS = 10
# Requests beyond these are told to come again.
MAX_WAITING, MAX_WAIT_SECONDS, MAX_CONNECTIONS = 400, 60, 1_000
# From so many connections on, a new one ends the oldest that has sent no request.
_CROWDED = MAX_CONNECTIONS * 9 // 10

_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_CHUNK = 262_144


def open_port(port: int) -> socket.socket:
    """Listens on a port of 127.0.0.1; 0 is any that is free."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"port must be free, received {port} ({error}); name another, or 0 for any."
        ) from None


def make_server(app: Any) -> "uvicorn.Server":
    """Makes what runs the application; `should_exit = True` ends its `run`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
    )


class _Protocol(H11Protocol):
    """HTTP that doesn't wait forever for the headers of a request."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self._headers_timer = None
        self._watch_headers()
        if len(self.connections) > _CROWDED:
            waiting = [one for one in self.connections if one._headers_timer]
            min(waiting, key=lambda one: one._headers_timer.when())._end_waiting()

    def data_received(self, data):
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc):
        self._stop_watching()
        super().connection_lost(exc)

    def _watch_headers(self):
        """Starts the time for headers, or ends it when they are complete."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._headers_timer is None:
            loop = asyncio.get_running_loop()
            self._headers_timer = loop.call_later(HEADER_SECONDS, self._end_waiting)

    def _stop_watching(self):
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _end_waiting(self):
        """Closes a connection that has sent no request."""
        self._stop_watching()
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


# === Who may ask, and how errors are answered ===


class Refusal(Exception):
    """A request that isn't fulfilled: HTTP's status and what to say."""

    def __init__(self, status, message, **headers):
        super().__init__(message)
        self.status, self.headers = status, headers


class Guard:
    """Refuses what other websites send, adds headers, and answers errors in JSON."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        began = False

        async def send_guarded(message):
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            _check_sender(scope["path"], Headers(scope=scope))
            # With "app" in its scope the router raises what it doesn't know.
            await self.app({**scope, "app": self}, receive, send_guarded)
        except ClientDisconnect:
            pass
        except Exception as error:
            if began:
                raise
            await _refused(error)(scope, receive, send_guarded)


def _check_sender(path, headers):
    """Raises for hosts that aren't this machine, and for pages of other origins."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        raise Refusal(
            403,
            f"the host must be 127.0.0.1 or localhost, received {hosts!r:.200}; open "
            "the address that `align-keras serve` prints.",
        )
    origins = headers.getlist("origin")
    same = (f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower())
    site = headers.get("sec-fetch-site", "none")
    # The page itself may be come to by a link.
    linked = path == "/" and headers.get("sec-fetch-mode") == "navigate"
    if any(origin.lower() not in same for origin in origins) or not (
        site in ("none", "same-origin") or linked
    ):
        raise Refusal(403, "another website's page can't use this server.")


def _refused(error):
    """The answer to an error."""
    headers = {}
    if isinstance(error, Refusal):
        status, message, headers = error.status, str(error), error.headers
    elif isinstance(error, InputError):
        status, message = 400, str(error)
    elif isinstance(error, ImageError):
        status, message = 400, f"the image can't be read ({error})."
    elif isinstance(error, HTTPException):
        status, message = error.status_code, f"{error.detail}."
    else:
        text = " ".join(str(error).split())[:300]
        status, message = 500, f"unexpected {type(error).__name__}: {text}"
        say(message)
    return json_answer({"error": message}, status, headers)


def json_answer(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Answers with JSON, which no cache keeps."""
    # Names of files that aren't UTF-8 hold what UTF-8 hasn't: escaped it passes.
    body = json.dumps(content, ensure_ascii=True, allow_nan=False, default=str)
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return Response(body, status, headers, "application/json")


# === Work, some at a time ===


class Lane:
    """Threads for one kind of work; who finds none free waits for a turn."""

    def __init__(self, threads):
        self._free = asyncio.Semaphore(threads)
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def turn(self, request: Request) -> AsyncIterator[Callable]:
        """Yields what runs a function in a thread; what takes memory is read within."""
        if self._waiting >= MAX_WAITING:
            raise _busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._waiting -= 1
        try:
            # Of what is typed letter by letter, the last search alone is wanted.
            if request.method != "POST" and await request.is_disconnected():
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            yield functools.partial(loop.run_in_executor, self._pool)
        finally:
            self._free.release()


class Held(StreamingResponse):
    """Bytes that keep a turn until they are sent, so that few lie in memory."""

    def __init__(
        self,
        content: bytes,
        kind: str,
        headers: dict[str, str],
        turn: contextlib.AsyncExitStack,
    ):
        headers = {**headers, "Content-Length": str(len(content))}
        super().__init__(_chunks(content), headers=headers, media_type=kind)
        self._turn = turn

    async def __call__(self, scope, receive, send):
        async with self._turn:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEND_SECONDS):
                    await super().__call__(scope, receive, send)


async def _chunks(content):
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


class Bodies:
    """The requests' bodies in memory, which must not become too large together.

    A slow client takes as much of the memory as it has sent, and keeps nobody waiting.
    """

    def __init__(self):
        self._bytes = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yields a request's body; refuses what is too large or too slow."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in _checked_stream(request):
                    self._bytes += len(chunk)
                    body += chunk
                    if self._bytes > MAX_BODIES_BYTES:
                        raise _busy()
                    if len(body) > MAX_BODY_BYTES:
                        raise _too_large()
            if not body:
                raise InputError(
                    "the body must hold an image, received nothing; send a file."
                )
            yield bytes(body)
        except TimeoutError:
            raise Refusal(408, f"the image took more than {BODY_SECONDS} s.") from None
        finally:
            self._bytes -= len(body)


def _checked_stream(request):
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 12 or int(length) > MAX_BODY_BYTES:
        raise _too_large()
    return request.stream()


def _too_large():
    return Refusal(
        413, f"an image must have at most {MAX_BODY_BYTES:,} bytes; make it smaller."
    )


def _busy():
    retry = {"Retry-After": "1"}
    return Refusal(503, "too many requests at once; try again.", **retry)
