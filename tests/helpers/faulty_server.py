"""A web server that answers ranges, and fails as it is told.

`Faulty(files)` serves a dict of names to bytes from a thread; `faults` are taken one a
GET: `"500"`, `"429"` (Retry-After: 1), `"403"`, `"break"` (after half of the bytes),
`"stall"`, `"ok"`; when they are used up, requests are answered. `redirects` are
addresses by the name that leads there, names in `short` are always cut in half, and
names in `down` are always answered by 503. With `login`, a user and a password as in
`"me:secret"`, others get 401.
"""

import base64
import contextlib
import hashlib
import http.server
import re
import threading
import time


class Faulty(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files, port=0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.files, self.faults, self.asked = files, [], []
        self.delay = 0.0
        self.redirects, self.short, self.down = {}, set(), set()
        self.login = None
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """Clients that hang up are what is tested."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        self.server.asked.append((self.command, self.headers.get("Range")))
        time.sleep(self.server.delay)
        fault = self.server.faults.pop(0) if self.server.faults and body else "ok"
        if self.server.login is not None:
            expected = base64.b64encode(self.server.login.encode()).decode()
            if self.headers.get("Authorization") != f"Basic {expected}":
                return self._refuse(401)
        name = self.path.partition("?")[0].lstrip("/")
        if name in self.server.redirects:
            return self._redirect(self.server.redirects[name])
        if name in self.server.down:
            return self._refuse(503)
        fault = "break" if body and name in self.server.short else fault
        content = self.server.files.get(name)
        if content is None:
            return self._refuse(404)
        if fault.isdecimal():
            return self._refuse(int(fault))
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        if self.headers.get("If-Match", tag) != tag:
            return self._refuse(412)
        start, stop = 0, len(content)
        if given := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, stop = int(given[1]), min(int(given[2]) + 1, stop)
        self.send_response(206 if given else 200)
        if given:
            self.send_header(
                "Content-Range", f"bytes {start}-{stop - 1}/{len(content)}"
            )
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", tag)
        self.end_headers()
        if not body:
            return None
        end = (start + stop) // 2 if fault in ("break", "stall") else stop
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if fault == "stall":
            time.sleep(5)
        if fault != "ok":
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)
        return None

    def _refuse(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()

    def _redirect(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Nothing."""
