"""Local web servers with faults."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import re
import threading
import time
import urllib.parse

# Seconds. Longer than the timeout that tests set for a stalled server.
STALL_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Request:
    """A request that a server received. `range` is its Range header."""

    method: str
    name: str
    range: str | None


class WebServer(http.server.ThreadingHTTPServer):
    """Web server that runs in a thread, supports ranges and fails on request.

    Args:
        files: Name → bytes. A name is the path of the URL without its first slash.
        port: Port of the loopback interface, or 0 for any free one.

    Attributes:
        url: Address of the server.
        requests: Requests in the order in which they arrived.
        queries: Parameters of the query strings of all requests.
        faults: Faults of the next GET requests, one each: `"500"` or another status,
            `"429"` (with Retry-After: 1), `"break"` (the connection ends after half of
            the bytes), `"stall"` (it pauses there first) or `"ok"`. Requests succeed
            when the list is empty.
        redirects: Name → address to which the server redirects.
        short: Names whose responses always end after half of the bytes.
        down: Names that always get status 503.
        login: User and password, such as `"me:secret"`. Requests without them get
            status 401. None accepts all requests.
        delay: Seconds before each response.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.files = files
        self.requests: list[Request] = []
        self.queries: list[str] = []
        self.faults: list[str] = []
        self.redirects: dict[str, str] = {}
        self.short: set[str] = set()
        self.down: set[str] = set()
        self.login: str | None = None
        self.delay = 0.0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "WebServer":
        # `shutdown` waits for the end of a poll interval.
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Prints nothing, since tests make clients close connections early."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_HEAD(self) -> None:
        self._respond(has_body=False)

    def do_GET(self) -> None:
        self._respond(has_body=True)

    def _respond(self, has_body: bool) -> None:
        server = self.server
        name = urllib.parse.unquote(self.path.partition("?")[0]).lstrip("/")
        byte_range = self.headers.get("Range")
        server.queries += self.path.partition("?")[2].split("&")
        server.requests.append(Request(self.command, name, byte_range))
        time.sleep(server.delay)
        fault = "ok"
        if has_body and server.faults:
            fault = server.faults.pop(0)
        if server.login is not None:
            login = base64.b64encode(server.login.encode()).decode()
            if self.headers.get("Authorization") != f"Basic {login}":
                return self._refuse(401)
        if name in server.redirects:
            return self._redirect(server.redirects[name])
        if name in server.down:
            return self._refuse(503)
        if has_body and name in server.short:
            fault = "break"
        content = server.files.get(name)
        if content is None:
            return self._refuse(404)
        if fault.isdecimal():
            return self._refuse(int(fault))
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        if self.headers.get("If-Match", tag) != tag:
            return self._refuse(412)
        start, stop = 0, len(content)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", byte_range or "")
        if match:
            start, stop = int(match[1]), min(int(match[2]) + 1, stop)
        self.send_response(206 if match else 200)
        if match:
            content_range = f"bytes {start}-{stop - 1}/{len(content)}"
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", tag)
        self.end_headers()
        if not has_body:
            return None
        end = (start + stop) // 2 if fault in ("break", "stall") else stop
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if fault == "stall":
            time.sleep(STALL_SECONDS)
        if fault != "ok":
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)
        return None

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Prints nothing, since the requests would clutter the output of the tests."""
