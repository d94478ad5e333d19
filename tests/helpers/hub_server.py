"""Local server of the part of the Hugging Face Hub's HTTP API for models.

The server stores repositories with commits, branches, large files (git LFS) and users
in memory. The real `huggingface_hub` client uploads to it and downloads from it, if
`HF_ENDPOINT` is the server's `url`. The client's other protocol, Xet, is disabled by
`HF_HUB_DISABLE_XET`.
"""

import base64
import dataclasses
import fnmatch
import hashlib
import http.server
import json
import os
import pathlib
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import yaml

# Default `.gitattributes` of the Hub: patterns of large files.
LFS_PATTERNS = (
    "*.bin",
    "*.gz",
    "*.h5",
    "*.npy",
    "*.npz",
    "*.onnx",
    "*.pb",
    "*.safetensors",
    "*.tflite",
    "*.wasm",
    "*.zip",
    "saved_model/*",
)
# Bytes. The Hub stores larger files with LFS, whatever their name.
LFS_SIZE = 10 * 2**20
# Identifiers of licenses that the Hub accepts in a model card. This is a part of
# https://huggingface.co/docs/hub/repositories-licenses.
LICENSES = (
    "afl-3.0",
    "agpl-3.0",
    "apache-2.0",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc",
    "cc-by-2.0",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-2.0",
    "gpl-3.0",
    "lgpl-3.0",
    "mit",
    "mpl-2.0",
    "openrail",
    "other",
    "unknown",
    "unlicense",
)
_MESSAGE = "X-Error-Message"
_INVALID_TOKEN = "Invalid credentials in Authorization header"


@dataclasses.dataclass(frozen=True)
class Blob:
    """Content of a file in a commit."""

    content: bytes
    is_large: bool

    @property
    def sha1(self) -> str:
        """Identifier of the file in git."""
        head = b"blob %d\0" % len(self.content)
        return hashlib.sha1(head + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.sha1


class Repository:
    """Repository of a model.

    Args:
        private: True hides the repository from all users but its owner.

    Attributes:
        gated: bool, True requires the acceptance of terms to read files.
        commits: dict from commit to the files of the commit, path → `Blob`.
        messages: dict from commit to its message.
        branches: dict from branch to commit.
    """

    def __init__(self, private: bool = False) -> None:
        self.private = private
        self.gated = False
        self.commits: dict[str, dict[str, Blob]] = {}
        self.messages: dict[str, str] = {}
        self.branches: dict[str, str] = {}
        self.commit("main", {".gitattributes": Blob(b"", False)}, "initial commit")

    def commit(self, branch: str, files: dict[str, Blob], message: str) -> str:
        """Replaces the files of a branch. Returns the new commit."""
        names = sorted((name, blob.sha1) for name, blob in files.items())
        state = repr((names, message, len(self.commits)))
        commit = hashlib.sha1(state.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.messages[commit] = message
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        """Returns the commit of a branch or commit, or None."""
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None

    def files(self, revision: str = "main") -> dict[str, Blob]:
        """Returns the files of a revision, except `.gitattributes`."""
        commit = self.branches.get(revision, revision)
        files = dict(self.commits[commit])
        files.pop(".gitattributes")
        return files


@dataclasses.dataclass(frozen=True)
class Cut:
    """Connection that the server breaks once.

    Args:
        method: `"GET"` or `"PUT"`.
        suffix: end of the path of the request, or `""` for any path.
        share: share of the bytes of the file before the end of the connection.
    """

    method: str
    suffix: str = ""
    share: float = 0.5


class HubServer(http.server.ThreadingHTTPServer):
    """Server of models on the loopback interface.

    Attributes:
        url: str, address of the server, the value of `HF_ENDPOINT`.
        storage_url: str, address to which downloads of large files are redirected.
        users: dict from token to the name of its user.
        read_only: set of tokens without the permission to write.
        repositories: dict from `user/model` to `Repository`.
        requests: list of `METHOD path` in the order of arrival.
        ranges: list of the Range headers of requests for files.
        received: int, bytes of large files that arrived.
        cuts: list of `Cut`. The first one that matches a request breaks it.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        # Large files have another host, as on the Hub.
        self.storage_url = f"http://localhost:{self.server_port}"
        self.users: dict[str, str] = {}
        self.read_only: set[str] = set()
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.received = 0
        self.cuts: list[Cut] = []
        self.lock = threading.Lock()

    def __enter__(self) -> "HubServer":
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Prints nothing, since tests break connections."""

    def add_user(self, name: str, read_only: bool = False) -> str:
        """Adds a user. Returns a token in the form of the Hub's."""
        token = "hf_" + hashlib.sha256(f"{name} {read_only}".encode()).hexdigest()[:34]
        self.users[token] = name
        if read_only:
            self.read_only.add(token)
        return token

    def add_model(
        self, name: str, folder: str | os.PathLike, private: bool = False
    ) -> str:
        """Adds a repository with the files of a folder. Returns its commit."""
        repository = self.repositories.setdefault(name, Repository(private))
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in pathlib.Path(folder).rglob("*")
            if path.is_file()
        }
        blobs = {
            path: Blob(content, is_large(path, len(content)))
            for path, content in files.items()
        }
        return repository.commit("main", repository.files() | _HEAD | blobs, "Add")

    def environment(self, cache: str | os.PathLike, token: str | None = None) -> dict:
        """Returns the environment variables of a client.

        Args:
            cache: folder of the client's cache and login.
            token: value of `HF_TOKEN`, or None.
        """
        environment = {
            **os.environ,
            "HF_ENDPOINT": self.url,
            "HF_HOME": os.fspath(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        environment.pop("HF_TOKEN", None)
        if token is not None:
            environment["HF_TOKEN"] = token
        return environment


def use_server(server: HubServer, monkeypatch: Any, cache: pathlib.Path) -> None:
    """Connects the `huggingface_hub` of this process to a server.

    The client reads its environment variables when it is imported, which may have
    happened already.

    Args:
        server: `HubServer`.
        monkeypatch: fixture of pytest.
        cache: folder of the client's cache and login.
    """
    import huggingface_hub.file_download
    import huggingface_hub.hf_api
    from huggingface_hub import constants

    settings = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
            constants.ENDPOINT, server.url
        ),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_DISABLE_XET": True,
    }
    # Earlier versions have fewer constants, and import some of them by name.
    for module in (constants, huggingface_hub.file_download, huggingface_hub.hf_api):
        for name, value in settings.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    huggingface_hub.utils.disable_progress_bars()
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)


_HEAD = {".gitattributes": Blob(b"", False)}


def is_large(path: str, size: int) -> bool:
    """Returns True if the Hub stores a file with LFS."""
    by_name = any(fnmatch.fnmatch(path, pattern) for pattern in LFS_PATTERNS)
    return size > 0 and (by_name or size >= LFS_SIZE)


class _Refused(Exception):
    """Response with an error status."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        path = urllib.parse.urlsplit(self.path).path
        with self.server.lock:
            self.server.requests.append(f"{self.command} {urllib.parse.unquote(path)}")
        body = self._read_body(path)
        if body is None:
            return
        try:
            for (method, pattern), respond in _ROUTES.items():
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    words = [urllib.parse.unquote(word) for word in match.groups()]
                    respond(self, body, *words)
                    return
            raise _Refused(404, f"no route for {self.command} {path}")
        except _Refused as error:
            headers = {_MESSAGE: error.message}
            if error.code is not None:
                headers["X-Error-Code"] = error.code
            self._send_json({"error": error.message}, error.status, headers)

    # === Requests and responses ===

    def end_headers(self) -> None:
        # A connection that is kept alive would survive the end of the server.
        self.send_header("Connection", "close")
        super().end_headers()

    def _read_body(self, path: str) -> bytes | None:
        """Returns the body of the request, or None if the connection is cut."""
        length = int(self.headers.get("Content-Length") or 0)
        cut = self._take_cut(path) if self.command == "PUT" else None
        if cut is not None:
            self.rfile.read(int(length * cut.share))
            self._break_connection()
            return None
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(length)
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _take_cut(self, path: str) -> Cut | None:
        """Removes and returns the first `Cut` that matches the request."""
        with self.server.lock:
            for cut in self.server.cuts:
                if cut.method == self.command and path.endswith(cut.suffix):
                    self.server.cuts.remove(cut)
                    return cut
        return None

    def _break_connection(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)

    def _send_json(
        self,
        value: Any,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, text in (headers or {}).items():
            self.send_header(name, " ".join(text.split()))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_file(self, blob: Blob, headers: Mapping[str, str]) -> None:
        """Sends a file, or the part of it in the Range header."""
        content = blob.content
        byte_range = self.headers.get("Range")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", byte_range or "")
        start, end = 0, len(content)
        if match:
            start = int(match[1])
            end = int(match[2]) + 1 if match[2] else end
            with self.server.lock:
                self.server.ranges.append(str(byte_range))
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{blob.etag}"')
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self._take_cut(self.path)
        if cut is not None:
            end = start + int((end - start) * cut.share)
        self.wfile.write(content[start:end])
        if cut is not None:
            self.wfile.flush()
            self._break_connection()

    # === Access ===

    def _user(self) -> str | None:
        """Returns the user of the request's token, or None without a token."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        user = self.server.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise _Refused(401, _INVALID_TOKEN)
        return user

    def _readable(self, name: str) -> Repository:
        """Returns a repository that the user may see."""
        user = self._user()
        repository = self.server.repositories.get(name)
        owner = name.partition("/")[0]
        if repository is None or (repository.private and user != owner):
            # The Hub does not reveal to strangers which repositories exist.
            status = 401 if user is None else 404
            raise _Refused(status, "Repository not found", "RepoNotFound")
        return repository

    def _writable(self, name: str) -> Repository:
        """Returns a repository to which the user may write."""
        repository = self._readable(name)
        self._check_writer(name.partition("/")[0])
        return repository

    def _check_writer(self, owner: str) -> None:
        user = self._user()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        token = self.headers["Authorization"].removeprefix("Bearer ")
        if user != owner or token in self.server.read_only:
            message = f'You have no rights to create a model under "{owner}"'
            raise _Refused(403, message)

    def _commit_of(self, repository: Repository, revision: str) -> str:
        commit = repository.resolve(revision)
        if commit is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # === Repositories ===

    def who_am_i(self, body: bytes) -> None:
        user = self._user()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        token = self.headers["Authorization"].removeprefix("Bearer ")
        role = "read" if token in self.server.read_only else "write"
        access = {"accessToken": {"displayName": "test", "role": role}}
        self._send_json({"type": "user", "name": user, "orgs": [], "auth": access})

    def create_repository(self, body: bytes) -> None:
        request = json.loads(body)
        owner = request.get("organization") or self._user()
        self._check_writer(owner)
        name = f"{owner}/{request['name']}"
        url = f"{self.server.url}/{name}"
        if name in self.server.repositories:
            message = "You already created this model repo"
            self._send_json({"error": message, "url": url}, 409, {_MESSAGE: message})
            return
        private = request.get("private") or request.get("visibility") == "private"
        self.server.repositories[name] = Repository(bool(private))
        self._send_json({"url": url, "name": name, "id": name})

    def create_branch(self, body: bytes, name: str, branch: str) -> None:
        repository = self._writable(name)
        if branch in repository.branches:
            raise _Refused(409, f"Reference already exists: {branch}")
        start = json.loads(body or b"{}").get("startingPoint", "main")
        repository.branches[branch] = self._commit_of(repository, start)
        self._send_json({})

    def describe(self, body: bytes, name: str, revision: str = "main") -> None:
        repository = self._readable(name)
        commit = self._commit_of(repository, revision)
        files = repository.commits[commit]
        description = {
            "_id": hashlib.sha1(name.encode()).hexdigest()[:24],
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }
        if "README.md" in files:
            description["cardData"] = read_metadata(files["README.md"].content.decode())
        self._send_json(description)

    def list_tree(self, body: bytes, name: str, revision: str) -> None:
        repository = self._readable(name)
        files = repository.commits[self._commit_of(repository, revision)]
        entries = []
        for path, blob in sorted(files.items()):
            entry = {
                "type": "file",
                "path": path,
                "oid": blob.sha1,
                "size": len(blob.content),
            }
            if blob.is_large:
                entry["lfs"] = {
                    "oid": blob.sha256,
                    "size": len(blob.content),
                    "pointerSize": 130,
                }
            entries.append(entry)
        self._send_json(entries)

    def resolve_file(self, body: bytes, name: str, revision: str, path: str) -> None:
        repository = self._readable(name)
        commit = self._commit_of(repository, revision)
        headers = {"X-Repo-Commit": commit}
        if repository.gated:
            raise _Refused(403, "Access to this model is restricted", "GatedRepo")
        blob = repository.commits[commit].get(path)
        if blob is None:
            raise _Refused(404, f"{path} does not exist", "EntryNotFound")
        if not blob.is_large:
            self._send_file(blob, headers)
            return
        self.send_response(302)
        self.send_header("Location", f"{self.server.storage_url}/large/{blob.sha256}")
        self.send_header("X-Linked-ETag", f'"{blob.sha256}"')
        self.send_header("X-Linked-Size", str(len(blob.content)))
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_large_file(self, body: bytes, oid: str) -> None:
        """Sends a large file. The token must not be sent to the host of these files."""
        if "Authorization" in self.headers:
            raise _Refused(400, "the storage received a token")
        blobs = (
            blob
            for repository in self.server.repositories.values()
            for files in repository.commits.values()
            for blob in files.values()
        )
        content = next((blob for blob in blobs if blob.sha256 == oid), None)
        if content is None:
            raise _Refused(404, "no such object")
        self._send_file(content, {})

    # === Upload ===

    def validate_card(self, body: bytes) -> None:
        """Checks the metadata of a model card."""
        errors = card_errors(json.loads(body)["content"])
        messages = [{"message": message} for message in errors]
        status = 400 if errors else 200
        self._send_json({"errors": messages, "warnings": []}, status)

    def choose_upload_modes(self, body: bytes, name: str, revision: str) -> None:
        repository = self._writable(name)
        files = repository.commits[self._commit_of(repository, revision)]
        modes = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            mode = {
                "path": path,
                "uploadMode": "lfs" if is_large(path, file["size"]) else "regular",
                "shouldIgnore": False,
            }
            if path in files:
                mode["oid"] = files[path].etag
            modes.append(mode)
        self._send_json({"files": modes})

    def plan_large_files(self, body: bytes, name: str) -> None:
        """Implements the batch API of git LFS."""
        self._writable(name)
        objects = []
        for entry in json.loads(body)["objects"]:
            oid, size = entry["oid"], entry["size"]
            plan = {"oid": oid, "size": size}
            if oid not in self.server.large_files:
                upload = {"href": f"{self.server.url}/upload/{oid}"}
                verify = {"href": f"{self.server.url}/verify/{oid}"}
                plan["actions"] = {"upload": upload, "verify": verify}
            objects.append(plan)
        self._send_json({"transfer": "basic", "objects": objects})

    def receive_large_file(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "wrong SHA-256")
        with self.server.lock:
            self.server.received += len(body)
            self.server.large_files[oid] = body
        self._send_json({})

    def verify_large_file(self, body: bytes, oid: str) -> None:
        size = json.loads(body)["size"]
        if len(self.server.large_files.get(oid, b"")) != size:
            raise _Refused(404, "no such object")
        self._send_json({})

    def receive_commit(self, body: bytes, name: str, revision: str) -> None:
        repository = self._writable(name)
        if revision not in repository.branches:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = dict(repository.commits[repository.branches[revision]])
        message = ""
        for line in body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = Blob(content, False)
            elif key == "lfsFile":
                content = self.server.large_files.get(value["oid"])
                if content is None:
                    raise _Refused(400, f"{value['path']} was not uploaded")
                files[value["path"]] = Blob(content, True)
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise _Refused(400, f"unknown operation {key}")
        commit = repository.commit(revision, files, message)
        url = f"{self.server.url}/{name}/commit/{commit}"
        self._send_json({"success": True, "commitOid": commit, "commitUrl": url})

    def log_message(self, *_: object) -> None:
        """Prints nothing, since the requests would clutter the output of the tests."""


def read_metadata(card: str) -> dict:
    """Returns the front matter of a model card, or an empty dict."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    metadata = yaml.safe_load(match[1]) if match else None
    return metadata if isinstance(metadata, dict) else {}


def card_errors(card: str) -> list[str]:
    """Returns the errors in the front matter of a model card, as the Hub finds them."""
    metadata = read_metadata(card)
    errors = []
    if metadata.get("license", "unknown") not in LICENSES:
        errors.append(f'"license" must be one of [{", ".join(LICENSES)}]')
    for name in ("library_name", "pipeline_tag"):
        if not isinstance(metadata.get(name, ""), str):
            errors.append(f'"{name}" must be a string')
    for name in ("datasets", "tags"):
        if not isinstance(metadata.get(name, []), list):
            errors.append(f'"{name}" must be an array')
    for number, model in enumerate(metadata.get("model-index", [])):
        for result in model.get("results") or [{}]:
            if not {"task", "dataset", "metrics"} <= result.keys():
                errors.append(f'"model-index[{number}].results" is incomplete')
            elif not {"type", "name"} <= result["dataset"].keys():
                errors.append(f'"model-index[{number}].results.dataset" is incomplete')
    return errors


_NAME = r"([^/]+/[^/]+)"
_ROUTES: dict[tuple[str, str], Callable[..., None]] = {
    ("GET", "/api/whoami-v2"): _Handler.who_am_i,
    ("POST", "/api/repos/create"): _Handler.create_repository,
    ("POST", "/api/validate-yaml"): _Handler.validate_card,
    ("GET", f"/api/models/{_NAME}"): _Handler.describe,
    ("GET", f"/api/models/{_NAME}/revision/([^/]+)"): _Handler.describe,
    ("GET", f"/api/models/{_NAME}/tree/([^/]+)"): _Handler.list_tree,
    ("POST", f"/api/models/{_NAME}/branch/([^/]+)"): _Handler.create_branch,
    ("POST", f"/api/models/{_NAME}/preupload/([^/]+)"): _Handler.choose_upload_modes,
    ("POST", f"/api/models/{_NAME}/commit/([^/]+)"): _Handler.receive_commit,
    ("POST", f"/{_NAME}.git/info/lfs/objects/batch"): _Handler.plan_large_files,
    ("PUT", "/upload/([0-9a-f]+)"): _Handler.receive_large_file,
    ("POST", "/verify/([0-9a-f]+)"): _Handler.verify_large_file,
    ("GET HEAD", "/large/([0-9a-f]+)"): _Handler.send_large_file,
    ("GET HEAD", f"/{_NAME}/resolve/([^/]+)/(.+)"): _Handler.resolve_file,
}
