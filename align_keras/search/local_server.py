"""HTTP server for a page on this machine: access checks, limits, threads and errors.

The host of a request must be this machine. Requests from pages of other origins are
refused. Each request waits for a free thread. Error responses are JSON.
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

import h11
import uvicorn
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from align_keras.corpus.image import ImageError
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

MAX_BODY_BYTES = 64_000_000
# Maximum total size of the bodies that are in memory at the same time.
MAX_BODIES_BYTES = 128_000_000
# Timeouts in seconds for receiving a body and for sending a response.
BODY_SECONDS = 30
SEND_SECONDS = 120
# Timeout in seconds for the headers of a request. Idle connections are closed after the
# same time.
HEADER_SECONDS = 10
# Maximum number of requests that wait for a thread, and maximum time of their wait in
# seconds. Beyond that, the response has the status 503.
MAX_WAITING = 400
MAX_WAIT_SECONDS = 60
MAX_CONNECTIONS = 1_000
# Maximum number of connections. If it is reached, a new connection closes the oldest
# idle connection.
_CLOSE_IDLE_ABOVE = MAX_CONNECTIONS * 9 // 10

# Addresses on which a server can listen: this machine, and all network interfaces. In a
# container, the published ports decide who can connect to the second address.
HOSTS = ("127.0.0.1", "0.0.0.0")

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
# Size in bytes of the chunks of a response.
_CHUNK = 262_144


def open_port(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Opens a listening socket on one of `HOSTS`. Port 0 selects any free port."""
    check_choice("host", host, HOSTS, "Use 0.0.0.0 in a container only.")
    try:
        return socket.create_server((host, port), backlog=MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"`port` must be a free port. Received: port={port} ({error}). Choose "
            "another port, or 0 for any free port."
        ) from None


def make_server(app: Any) -> "uvicorn.Server":
    """Creates the server of an application. `should_exit = True` stops its `run`."""
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
    """HTTP protocol with a timeout for the headers of a request."""

    _headers_timer: asyncio.TimerHandle | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._headers_timer = None
        self._watch_headers()
        if len(self.connections) > _CLOSE_IDLE_ABOVE:
            self._end_oldest()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _end_oldest(self) -> None:
        """Closes the connection that has been idle for the longest time."""
        deadlines = {
            connection: connection._headers_timer.when()
            for connection in self.connections
            if isinstance(connection, _Protocol) and connection._headers_timer
        }
        min(deadlines, key=deadlines.__getitem__)._end_waiting()

    def _watch_headers(self) -> None:
        """Starts the timer for the headers, or stops it when they are complete."""
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
        """Closes a connection that has not sent a complete request header."""
        self._stop_watching()
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


# === Access and errors ===


class RequestError(Exception):
    """Error with the status, message and headers of the response to a request."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class AccessMiddleware:
    """ASGI middleware for access checks, security headers and error responses."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            _check_sender(scope["path"], Headers(scope=scope))
            # If the scope has an "app", the router raises HTTPException for an unknown
            # path instead of sending a plain-text response.
            await self.app({**scope, "app": self}, receive, send_with_headers)
        except ClientDisconnect:
            pass
        except Exception as error:
            if has_started:
                raise
            await _error_response(error)(scope, receive, send_with_headers)


def _check_sender(path: str, headers: Headers) -> None:
    """Raises RequestError if a request comes from another host or another origin."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        raise RequestError(
            403,
            f"The host must be 127.0.0.1 or localhost. Received: {hosts!r:.200}. Open "
            "the address that `align-keras serve` prints.",
        )
    origins = headers.getlist("origin")
    host_origins = (f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower())
    is_other_origin = any(origin.lower() not in host_origins for origin in origins)
    is_same_site = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    # Links from other websites to the page itself are allowed.
    is_link = path == "/" and headers.get("sec-fetch-mode") == "navigate"
    if is_other_origin or not (is_same_site or is_link):
        raise RequestError(
            403, "Pages of other websites are not allowed to use this server."
        )


def _error_response(error: Exception) -> Response:
    """Returns the response for an error."""
    if isinstance(error, RequestError):
        return json_response({"error": str(error)}, error.status, error.headers)
    if isinstance(error, InputError):
        return json_response({"error": str(error)}, 400)
    if isinstance(error, ImageError):
        return json_response({"error": f"The image can't be read ({error})."}, 400)
    if isinstance(error, HTTPException):
        return json_response({"error": f"{error.detail}."}, error.status_code)
    text = " ".join(str(error).split())[:300]
    message = f"unexpected {type(error).__name__}: {text}"
    say(message)
    return json_response({"error": message}, 500)


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Returns a JSON response that is not cached."""
    # ASCII escapes also represent the bytes of file names that are not UTF-8.
    body = json.dumps(content, ensure_ascii=True, allow_nan=False, default=str)
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return Response(body, status, headers, "application/json")


# === Threads and memory ===


class WorkerPool:
    """Thread pool for one kind of work. A request waits until a thread is free."""

    def __init__(self, threads: int) -> None:
        self._free = asyncio.Semaphore(threads)
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def slot(
        self, request: Request
    ) -> "AsyncIterator[Callable[..., Awaitable[Any]]]":
        """Waits for a free thread, and yields a function that runs calls in the thread.

        The slot of a request lasts until the context ends. A request must read large
        files within its slot, so that the number of threads limits the number of files
        in memory.
        """
        if self._waiting >= MAX_WAITING:
            raise _busy_error()
        self._waiting += 1
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise _busy_error() from None
        finally:
            self._waiting -= 1
        try:
            # While a user is typing, the page cancels all searches except the last one.
            if request.method != "POST" and await request.is_disconnected():
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            yield functools.partial(loop.run_in_executor, self._pool)
        finally:
            self._free.release()


class SlotHoldingResponse(StreamingResponse):
    """Response that occupies its slot until it is sent, which limits the memory."""

    def __init__(
        self,
        content: bytes,
        media_type: str,
        headers: Mapping[str, str],
        slot: contextlib.AsyncExitStack,
    ) -> None:
        headers = {**headers, "Content-Length": str(len(content))}
        super().__init__(
            _split_content(content), headers=headers, media_type=media_type
        )
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._slot:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEND_SECONDS):
                    await super().__call__(scope, receive, send)


async def _split_content(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


class BodyReader:
    """Request bodies in memory, with a limit on their total size.

    A slow client uses only the memory for the bytes that it has sent, and does not
    block other clients.
    """

    def __init__(self) -> None:
        self._bytes = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yields the body of a request.

        Raises:
            RequestError: if the body is too large, arrives too slowly, or exceeds the
                limit on the total size.
            InputError: if the body is empty.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in _open_stream(request):
                    self._bytes += len(chunk)
                    body += chunk
                    if self._bytes > MAX_BODIES_BYTES:
                        raise _busy_error()
                    if len(body) > MAX_BODY_BYTES:
                        raise _too_large_error()
            if not body:
                raise InputError(
                    "The body must contain an image. Received: an empty body. Send an "
                    "image file."
                )
            yield bytes(body)
        except TimeoutError:
            raise RequestError(
                408,
                f"The upload of the image must take at most {BODY_SECONDS} s. Send a "
                "smaller image.",
            ) from None
        finally:
            self._bytes -= len(body)


def _open_stream(request: Request) -> AsyncIterator[bytes]:
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 12 or int(length) > MAX_BODY_BYTES:
        raise _too_large_error()
    return request.stream()


def _too_large_error() -> RequestError:
    return RequestError(
        413,
        f"An image must have at most {MAX_BODY_BYTES:,} bytes. Send a smaller image.",
    )


def _busy_error() -> RequestError:
    retry = {"Retry-After": "1"}
    return RequestError(503, "Too many requests at the same time. Try again.", **retry)
