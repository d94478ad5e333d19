"""A local server that speaks what huggingface_hub asks of the hub for a snapshot.

`HubServer({"user/model": folder})` serves folders from a thread. Point `HF_ENDPOINT` to
its `url`. `served` lists the names of the files that were fetched.
"""

import hashlib
import http.server
import json
import pathlib
import threading
import urllib.parse

REVISION = "5" * 40


class HubServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, models):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = {name: pathlib.Path(path) for name, path in models.items()}
        self.served = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(has_body=False)

    def do_GET(self):
        self._answer(has_body=True)

    def _answer(self, has_body):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        content = self._content(path, has_body)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if has_body:
            self.wfile.write(content)

    def _content(self, path, has_body):
        for name, folder in self.server.models.items():
            files = sorted(file for file in folder.iterdir() if file.is_file())
            if path == f"/api/models/{name}/revision/main":
                siblings = [{"rfilename": file.name} for file in files]
                about = {"id": name, "sha": REVISION, "siblings": siblings}
                return json.dumps(about).encode()
            if path == f"/api/models/{name}/tree/{REVISION}":
                return json.dumps([_entry(file) for file in files]).encode()
            prefix = f"/{name}/resolve/{REVISION}/"
            file = folder / path.removeprefix(prefix)
            if path.startswith(prefix) and file in files:
                if has_body:
                    self.server.served.append(file.name)
                return file.read_bytes()
        return None

    def log_message(self, *_):
        """Keeps the requests out of the tests' output."""


def _entry(file):
    oid = hashlib.sha1(file.name.encode()).hexdigest()
    size = file.stat().st_size
    return {"type": "file", "path": file.name, "size": size, "oid": oid}
