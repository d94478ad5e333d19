"""A server of one page for this machine: access, limits, threads and errors.

Requests must name this machine as their host, and come from the page itself or from no
page. They wait for one of several threads. Errors are answered in JSON.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, cast

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
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_BODY_BYTES = 64_000_000
# Bytes of all bodies that are in memory at once.
MAX_BODIES_BYTES = 128_000_000
# Seconds for receiving a body, and for sending an answer.
BODY_SECONDS = 30
SEND_SECONDS = 120
# Seconds for the headers of a request. A connection without a request ends after them.
HEADER_SECONDS = 10
# Requests that wait for a thread, and seconds that each waits. Further requests are
# answered with "try again".
MAX_WAITING = 400
MAX_WAIT_SECONDS = 60
MAX_CONNECTIONS = 1_000
# With more connections, a new one ends the oldest that has sent no request.
_CROWDED = MAX_CONNECTIONS * 9 // 10

_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Bytes that are sent at once.
_CHUNK = 262_144


def open_port(port: int) -> socket.socket:
    """Listens on a port of 127.0.0.1. Port 0 is any free port."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"port must be free. Received: {port} ({error}). Name another, or 0 for "
            "any."
        ) from None


def make_server(app: Any) -> "uvicorn.Server":
    """Makes the server of an application. `should_exit = True` ends its `run`."""
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
    """HTTP with a timeout for the headers of a request."""

    _headers_timer: asyncio.TimerHandle | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._headers_timer = None
        self._watch_headers()
        if len(self.connections) > _CROWDED:
            self._end_oldest()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _end_oldest(self) -> None:
        """Closes the connection that has waited longest for a request."""
        deadlines = {
            connection: connection._headers_timer.when()
            for connection in self.connections
            if isinstance(connection, _Protocol) and connection._headers_timer
        }
        min(deadlines, key=deadlines.__getitem__)._end_waiting()

    def _watch_headers(self) -> None:
        """Starts the timer of the headers, or ends it when they are complete."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._headers_timer is None:
            loop = asyncio.get_running_loop()
            self._headers_timer = loop.call_later(HEADER_SECONDS, self._end_waiting)

    def _stop_watching(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _end_waiting(self) -> None:
        """Closes a connection that has sent no request."""
        self._stop_watching()
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


# === Access and errors ===


class Refusal(Exception):
    """A request that isn't fulfilled: status, message and headers of the answer."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class Guard:
    """Refuses requests of other websites, adds headers, and answers errors in JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def send_guarded(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            _check_sender(scope["path"], Headers(scope=scope))
            # With "app" in its scope, the router raises an error for an unknown path.
            await self.app({**scope, "app": self}, receive, send_guarded)
        except ClientDisconnect:
            pass
        except Exception as error:
            if began:
                raise
            await _refused(error)(scope, receive, send_guarded)


def _check_sender(path: str, headers: Headers) -> None:
    """Raises Refusal for other hosts than this machine and pages of other origins."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        raise Refusal(
            403,
            f"The host must be 127.0.0.1 or localhost. Received: {hosts!r:.200}. Open "
            "the address that `align-keras serve` prints.",
        )
    origins = headers.getlist("origin")
    host_origins = (f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower())
    is_other_origin = any(origin.lower() not in host_origins for origin in origins)
    is_same_site = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    # Another website may link to the page itself.
    is_link = path == "/" and headers.get("sec-fetch-mode") == "navigate"
    if is_other_origin or not (is_same_site or is_link):
        raise Refusal(403, "A page of another website can't use this server.")


def _refused(error: Exception) -> Response:
    """Returns the answer to an error."""
    if isinstance(error, Refusal):
        return json_answer({"error": str(error)}, error.status, error.headers)
    if isinstance(error, InputError):
        return json_answer({"error": str(error)}, 400)
    if isinstance(error, ImageError):
        return json_answer({"error": f"The image can't be read ({error})."}, 400)
    if isinstance(error, HTTPException):
        return json_answer({"error": f"{error.detail}."}, error.status_code)
    text = " ".join(str(error).split())[:300]
    message = f"unexpected {type(error).__name__}: {text}"
    say(message)
    return json_answer({"error": message}, 500)


def json_answer(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Returns an answer in JSON that no cache stores."""
    # ASCII, because names of files may contain bytes that are not UTF-8.
    body = json.dumps(content, ensure_ascii=True, allow_nan=False, default=str)
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return Response(body, status, headers, "application/json")


# === Threads and memory ===


class Lane:
    """Threads for one kind of work. A request waits until a thread is free."""

    def __init__(self, threads: int) -> None:
        self._free = asyncio.Semaphore(threads)
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def turn(
        self, request: Request
    ) -> "AsyncIterator[Callable[..., Awaitable[Any]]]":
        """Waits for a free thread, then yields a function that runs others in it.

        A request must read large contents within its turn, which limits their number.
        """
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
            # While a user types, the page cancels all searches but the last.
            if request.method != "POST" and await request.is_disconnected():
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            yield functools.partial(loop.run_in_executor, self._pool)
        finally:
            self._free.release()


class Held(StreamingResponse):
    """An answer that keeps its turn until it is sent, so that few are in memory."""

    def __init__(
        self,
        content: bytes,
        media_type: str,
        headers: Mapping[str, str],
        turn: contextlib.AsyncExitStack,
    ) -> None:
        headers = {**headers, "Content-Length": str(len(content))}
        super().__init__(_chunks(content), headers=headers, media_type=media_type)
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._turn:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEND_SECONDS):
                    await super().__call__(scope, receive, send)


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


class Bodies:
    """The bodies of all requests in memory, with a limit of their total size.

    A slow client uses only as much memory as it has sent, and blocks no other client.
    """

    def __init__(self) -> None:
        self._bytes = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yields a request's body. Refuses one that is too large or too slow."""
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
                    "The body must hold an image. Received: nothing. Send a file."
                )
            yield bytes(body)
        except TimeoutError:
            raise Refusal(408, f"The image took more than {BODY_SECONDS} s.") from None
        finally:
            self._bytes -= len(body)


def _checked_stream(request: Request) -> AsyncIterator[bytes]:
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 12 or int(length) > MAX_BODY_BYTES:
        raise _too_large()
    return request.stream()


def _too_large() -> Refusal:
    return Refusal(
        413, f"An image must have at most {MAX_BODY_BYTES:,} bytes. Make it smaller."
    )


def _busy() -> Refusal:
    retry = {"Retry-After": "1"}
    return Refusal(503, "Too many requests at the same time. Try again.", **retry)
