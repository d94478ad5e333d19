"""HTTP server of the search page: access checks, limits, threads and errors.

Without a token, the host of a request must be this machine. With a token, every request
except the health check must have it. Requests from pages of other origins are refused.
Each request waits for a free thread. Error responses are JSON.
"""

import asyncio
import base64
import binascii
import concurrent.futures
import contextlib
import functools
import hmac
import ipaddress
import json
import os
import re
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, cast

import h11
import uvicorn
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.progress import say

MAX_BODY_BYTES = 64_000_000
# Maximum total size of the bodies that are in memory at the same time.
MAX_BODIES_BYTES = 128_000_000
# Timeouts in seconds for receiving a body and for sending a response.
BODY_SECONDS = 30
SEND_SECONDS = 120
# Timeout in seconds for the headers of a request.
HEADER_SECONDS = 10
# Maximum number of connections. Beyond that, the response has the status 503.
MAX_CONNECTIONS = 500
# Time in seconds for running requests to finish after SIGTERM. Docker waits 10 seconds,
# and Kubernetes 30 seconds.
STOP_SECONDS = 30
# Environment variable with the token.
TOKEN_VARIABLE = "ALIGN_KERAS_TOKEN"
# Path that needs no token, because monitors of containers cannot send one.
HEALTH_PATH = "/health"

_TOKEN = re.compile("[!-~]{16,1000}")
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
_ENCODED_HEADERS = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
# Size in bytes of the chunks of a response.
_CHUNK = 262_144


def read_token(file: str | os.PathLike | None = None) -> str | None:
    """Returns the token in a file or in `$ALIGN_KERAS_TOKEN`, or None without both.

    Args:
        file: path of a file with the token in its first line, or None.

    Raises:
        OSError: if the file cannot be read.
        InputError: if the token is not 16 to 1,000
            printable ASCII characters without spaces.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    source = f"${TOKEN_VARIABLE}"
    if file is not None:
        source = f"`token_file` {os.fspath(file)}"
        with open(file, encoding="ascii", errors="replace") as lines:
            token = lines.readline(2_000).strip()
    elif not token:
        return None
    # The message does not contain the token.
    if not _TOKEN.fullmatch(token or ""):
        raise InputError(
            "The token must have 16 to 1,000 printable ASCII characters without "
            f"spaces. Received: {len(token or '')} characters in {source}. Create a "
            "token with `openssl rand -hex 32`."
        )
    return token


def is_loopback(host: str) -> bool:
    """Returns True if a host name or address belongs to this machine only.

    Raises:
        InputError: if the host is unknown.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    addresses = {str(entry[4][0]) for entry in _resolve(host, 0)}
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    """Returns the addresses of a host as `socket.getaddrinfo` does."""
    try:
        return list(socket.getaddrinfo(host or "?", port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        raise InputError(
            "`host` must be an address or a name of this machine. Received: "
            f"host={host!r} ({error}). Use 127.0.0.1 for this machine only, or "
            "0.0.0.0 for all network interfaces."
        ) from None


def open_port(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Opens a listening socket on an address. Port 0 selects any free port."""
    family, _, _, _, address = _resolve(host, 0)[0]
    # asyncio sets TCP_NODELAY only on the connections of sockets with this protocol.
    # Otherwise, the body of a response waits until the client confirms the headers,
    # often 40 ms later.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address[0], port))
        listening.listen(MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        listening.close()
        raise InputError(
            f"`port` must be a free port. Received: port={port} ({error}). Choose "
            "another port, or 0 for any free port."
        ) from None
    return listening


def page_address(listening: socket.socket) -> str:
    """Returns the address of the page on a listening socket."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextlib.contextmanager
def stopping_gracefully() -> Iterator[None]:
    """Context in which SIGTERM and SIGINT stop a server without an error.

    uvicorn finishes the running requests, and then raises the signal again for the
    previous handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, _ignore) for number in signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _ignore(number: int, frame: Any) -> None:
    """Handler of a signal that uvicorn has already handled."""


def make_server(app: Any) -> "uvicorn.Server":
    """Creates the server of an application. `should_exit = True` stops its `run`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http=_Protocol,
            ws="none",
            lifespan="off",
            # The default configuration closes the log handlers of other packages. The
            # handler of Abseil then closes stderr if a program has replaced it.
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            # The access log has the client's address from a proxy on this machine.
            proxy_headers=True,
            forwarded_allow_ips="127.0.0.1,::1",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )


class _Protocol(H11Protocol):
    """HTTP protocol of uvicorn with a timeout for the headers of a request.

    uvicorn 0.54 has no such timeout. Granian 2.8 has one, but takes 21 MB of disk
    instead of 1 MB. Hypercorn 0.18 has one, but accepts HTTP/2, WebSockets and any
    number of connections. A search of 16 clients in 968 images took 3.0 ms of CPU time
    with Granian, 3.3 ms with Hypercorn and 3.3 ms with this class (medians of five runs
    on two busy cores).
    """

    _headers_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._watch_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_headers()

    def _watch_headers(self) -> None:
        """Starts the timer for the headers, or stops it when they are complete."""
        is_incomplete = self.conn.their_state is h11.IDLE
        if is_incomplete and self._headers_timer is None:
            loop = asyncio.get_running_loop()
            self._headers_timer = loop.call_later(HEADER_SECONDS, self.transport.close)
        elif not is_incomplete and self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None


# === Access and errors ===


class RequestError(Exception):
    """Error with the status, message and headers of the response to a request."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class AccessMiddleware:
    """ASGI middleware for access checks, security headers and error responses.

    Args:
        app: ASGI application.
        token: token that requests must have, or None.
    """

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self.app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                headers = [*message["headers"], *_ENCODED_HEADERS]
                message = {**message, "headers": headers}
            await send(message)

        try:
            headers = Headers(scope=scope)
            _check_length(headers)
            _check_sender(scope["path"], headers, has_token=self._token is not None)
            if self._token is not None and scope["path"] != HEALTH_PATH:
                _check_token(headers, self._token)
            # If the scope has an "app", the router raises HTTPException for an unknown
            # path instead of sending a plain-text response.
            await self.app({**scope, "app": self}, receive, send_with_headers)
        except ClientDisconnect:
            pass
        except Exception as error:
            if has_started:
                raise
            response = _error_response(error, scope["path"])
            await response(scope, receive, send_with_headers)


def _check_length(headers: Headers) -> None:
    """Raises RequestError if a request states the length of its body in two ways."""
    # A proxy may have read the other length, and would then mistake the rest of the
    # body for the next request (RFC 9112, section 6.1).
    if "content-length" in headers and "transfer-encoding" in headers:
        raise RequestError(
            400,
            "A request must not have both Content-Length and Transfer-Encoding. Leave "
            "one of them out.",
            Connection="close",
        )


def _check_token(headers: Headers, token: str) -> None:
    """Raises RequestError if a request does not have the token."""
    # Programs send it as `Authorization: Bearer TOKEN`. Browsers ask for a password and
    # send it as `Authorization: Basic`, with any user name.
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    received = credentials.strip()
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(received, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            pair = ""
        received = pair.partition(":")[2]
    elif scheme.lower() != "bearer":
        received = ""
    if not hmac.compare_digest(received.encode(), token.encode()):
        raise RequestError(
            401,
            "The request must have the token of the server. Send the header "
            "`Authorization: Bearer TOKEN`, or enter the token as the password in your "
            "browser.",
            **{"WWW-Authenticate": 'Basic realm="align-keras", charset="UTF-8"'},
        )


def _check_sender(path: str, headers: Headers, has_token: bool) -> None:
    """Raises RequestError if a request comes from another host or another origin."""
    # With a token, the host may have any name. Another website that resolves its name
    # to this machine does not have the token.
    hosts = headers.getlist("host")
    is_allowed = len(hosts) == 1 and (has_token or _HOST.fullmatch(hosts[0]))
    if not is_allowed:
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


def _error_response(error: Exception, path: str) -> Response:
    """Returns the response for an error. Paths below /v1 have OpenAI's form."""
    message, status = _describe(error)
    headers = dict(getattr(error, "headers", None) or {})
    content: Any = message
    if path.startswith("/v1/"):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        content = {"message": message, "type": kind, "param": None, "code": None}
    return json_response({"error": content}, status, headers)


def _describe(error: Exception) -> tuple[str, int]:
    """Returns the message and the status of the response for an error."""
    if isinstance(error, RequestError):
        return str(error), error.status
    if isinstance(error, InputError):
        return str(error), 400
    if isinstance(error, ImageError):
        return f"The image can't be read ({error}).", 400
    if isinstance(error, HTTPException):
        return f"{error.detail}.", error.status_code
    text = " ".join(str(error).split())[:300]
    message = f"unexpected {type(error).__name__}: {text}"
    say(message)
    return message, 500


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Returns a JSON response that is not cached."""
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return Response(encode_json(content), status, headers, "application/json")


def encode_json(content: Any) -> str:
    """Returns JSON in ASCII."""
    # ASCII escapes also represent the bytes of file names that are not UTF-8.
    return json.dumps(content, ensure_ascii=True, allow_nan=False, default=str)


# === Threads and memory ===


class WorkerPool:
    """Thread pool for one kind of work. A request waits until a thread is free."""

    def __init__(self, threads: int) -> None:
        self._free = asyncio.Semaphore(threads)
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)

    @contextlib.asynccontextmanager
    async def thread(self) -> "AsyncIterator[Callable[..., Awaitable[Any]]]":
        """Waits for a free thread, and yields a function that runs calls in it.

        The thread belongs to the request until the context ends. A request must read
        large files within the context, so that the number of threads limits the number
        of files in memory.
        """
        async with self._free:
            loop = asyncio.get_running_loop()
            yield functools.partial(loop.run_in_executor, self._pool)


class ThreadHoldingResponse(StreamingResponse):
    """Response that keeps its thread until it is sent, which limits the memory."""

    def __init__(
        self,
        content: bytes,
        media_type: str,
        headers: Mapping[str, str],
        thread: contextlib.AsyncExitStack,
    ) -> None:
        headers = {**headers, "Content-Length": str(len(content))}
        super().__init__(
            _split_content(content), headers=headers, media_type=media_type
        )
        self._thread = thread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._thread:
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
