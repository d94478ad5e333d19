"""Stub of the Hugging Face Hub, to which the real `huggingface_hub` client connects."""

import base64
import hashlib
import json
import os
import pathlib
import socket
import threading

import huggingface_hub.hf_api
import pytest
import uvicorn
from huggingface_hub import ModelCard, constants
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class Repository:
    """Commits of a model, each a dict from path to content, and its branches."""

    def __init__(self, private: bool = False) -> None:
        self.private = private
        self.gated = False
        self.commits: dict[str, dict[str, bytes]] = {}
        self.messages: dict[str, str] = {}
        self.branches: dict[str, str] = {}
        self.commit("main", {}, "initial commit")

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Replaces the files of a branch. Returns the commit."""
        commit = hashlib.sha1(str(len(self.commits)).encode()).hexdigest()
        self.commits[commit] = files
        self.messages[commit] = message
        self.branches[branch] = commit
        return commit

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


class HubStub:
    """HTTP server of models and users in memory.

    Attributes:
        users: dict from token to the name of its user.
        repositories: dict from `user/model` to `Repository`.
        downloads: list of the paths of downloaded files.
    """

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.repositories: dict[str, Repository] = {}
        self.downloads: list[str] = []
        model = "/api/models/{user}/{model}"
        routes = {
            "/api/whoami-v2": self._who_am_i,
            "/api/validate-yaml": self._validate_card,
            "/api/repos/create": self._create,
            model: self._describe,
            model + "/revision/{revision}": self._describe,
            model + "/tree/{revision}": self._list_files,
            model + "/branch/{branch}": self._create_branch,
            model + "/preupload/{revision}": self._choose_upload_modes,
            model + "/commit/{revision}": self._commit,
            "/{user}/{model}/resolve/{revision}/{path:path}": self._send_file,
        }
        methods = ["GET", "POST", "PUT"]
        app = Starlette(
            routes=[
                Route(path, respond, methods=methods)
                for path, respond in routes.items()
            ]
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def add_user(self, name: str) -> str:
        """Adds a user. Returns a token."""
        token = f"hf_{hashlib.sha256(name.encode()).hexdigest()[:34]}"
        self.users[token] = name
        return token

    def add_model(self, name: str, folder: pathlib.Path, private: bool = False) -> str:
        """Commits the files of a folder. Returns the commit."""
        repository = self.repositories.setdefault(name, Repository(private))
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        return repository.commit("main", repository.files() | files, "Add")

    def environment(self, cache: pathlib.Path, token: str = "") -> dict[str, str]:
        """Returns the environment variables of a client in another process."""
        return os.environ | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "HF_TOKEN": token,
        }

    def connect(self, monkeypatch: pytest.MonkeyPatch, cache: pathlib.Path) -> None:
        """Connects the client of this process, which has read its environment."""
        url = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
            constants.ENDPOINT, self.url
        )
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", self.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)

    def _user(self, request: Request) -> str | None:
        header = request.headers.get("Authorization")
        if header is None:
            return None
        user = self.users.get(header.removeprefix("Bearer "))
        if user is None:
            message = "Invalid credentials in Authorization header"
            raise HTTPException(401, headers={"X-Error-Message": message})
        return user

    def _repository(self, request: Request) -> tuple[Repository, str]:
        """Returns the repository and the commit of a request."""
        user = self._user(request)
        owner = request.path_params["user"]
        repository = self.repositories.get(f"{owner}/{request.path_params['model']}")
        if repository is None or (repository.private and user != owner):
            raise HTTPException(404, headers={"X-Error-Code": "RepoNotFound"})
        revision = request.path_params.get("revision", "main")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise HTTPException(404, headers={"X-Error-Code": "RevisionNotFound"})
        return repository, commit

    def _who_am_i(self, request: Request) -> Response:
        return JSONResponse({"type": "user", "name": self._user(request)})

    async def _validate_card(self, request: Request) -> Response:
        if "license: no-such-license" not in (await request.json())["content"]:
            return JSONResponse({})
        error = {"message": '"license" must be one of mit, other'}
        return JSONResponse({"errors": [error]}, 400)

    async def _create(self, request: Request) -> Response:
        settings = await request.json()
        owner = settings["organization"]
        if owner != self._user(request):
            raise HTTPException(403)
        name = f"{owner}/{settings['name']}"
        description = {"url": f"{self.url}/{name}"}
        if name in self.repositories:
            return JSONResponse(description, 409)
        # `visibility` from version 1.
        private = settings.get("private") or settings.get("visibility") == "private"
        self.repositories[name] = Repository(private)
        return JSONResponse(description)

    def _create_branch(self, request: Request) -> Response:
        repository, commit = self._repository(request)
        repository.branches[request.path_params["branch"]] = commit
        return JSONResponse({})

    def _describe(self, request: Request) -> Response:
        repository, commit = self._repository(request)
        files = repository.commits[commit]
        description = {
            "id": "{user}/{model}".format(**request.path_params),
            "sha": commit,
            "private": repository.private,
            "siblings": [{"rfilename": path} for path in files],
        }
        if "README.md" in files:
            card = ModelCard(files["README.md"].decode())
            description["cardData"] = card.data.to_dict()
        return JSONResponse(description)

    def _list_files(self, request: Request) -> Response:
        repository, commit = self._repository(request)
        file = {"type": "file", "oid": "", "size": 0}
        return JSONResponse(
            [file | {"path": path} for path in repository.commits[commit]]
        )

    def _send_file(self, request: Request) -> Response:
        repository, commit = self._repository(request)
        if repository.gated:
            raise HTTPException(403, headers={"X-Error-Code": "GatedRepo"})
        path = request.path_params["path"]
        if path not in repository.commits[commit]:
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound"})
        if request.method == "GET":
            self.downloads.append(path)
        content = repository.commits[commit][path]
        etag = hashlib.sha256(content).hexdigest()
        return Response(content, headers={"ETag": etag, "X-Repo-Commit": commit})

    async def _choose_upload_modes(self, request: Request) -> Response:
        mode = {"uploadMode": "regular", "shouldIgnore": False}
        files = (await request.json())["files"]
        return JSONResponse(
            {"files": [mode | {"path": file["path"]} for file in files]}
        )

    async def _commit(self, request: Request) -> Response:
        repository, parent = self._repository(request)
        files = dict(repository.commits[parent])
        header, *operations = map(json.loads, (await request.body()).splitlines())
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                del files[value["path"]]
        branch = request.path_params["revision"]
        commit = repository.commit(branch, files, header["value"]["summary"])
        model = "{user}/{model}".format(**request.path_params)
        url = f"{self.url}/{model}/commit/{commit}"
        return JSONResponse({"commitOid": commit, "commitUrl": url})
