"""Web page and JSON API of `align-keras serve`.

docs/pages/guides/json_api.md documents the requests. The server sends a file only for
the id of an image in the index, and only if the content of the file is the indexed
content.
"""

import asyncio
import contextlib
import dataclasses
import functools
import gc
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from align_keras.embedders.embedder import Embedder
from align_keras.search.image_index import Index
from align_keras.search.index.image_store import ScannedRows
from align_keras.search.index.schema import LeftOutFile
from align_keras.search.query.hits import Hit
from align_keras.search.query.photo_advice import photo_advice
from align_keras.search.readers.photos import read_query_image
from align_keras.search.serve.embeddings_api import embeddings_response, models_response
from align_keras.search.serve.indexed_images import (
    as_browser_format,
    cache_headers,
    is_cached,
    make_thumbnail,
)
from align_keras.search.serve.local_server import (
    TOKEN_VARIABLE,
    AccessMiddleware,
    BodyReader,
    RequestError,
    ThreadHoldingResponse,
    WorkerPool,
    is_loopback,
    json_response,
    make_server,
    open_port,
    page_address,
    stopping_gracefully,
)
from align_keras.search.serve.search_requests import (
    SearchRequest,
    hits_as_json,
    read_search,
)
from align_keras.search.serve.server_metrics import MetricsMiddleware, ServerMetrics
from align_keras.search.serve.shared_index import OpenIndex, SharedIndex
from align_keras.search.serve.text_batches import Batcher
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say
from align_keras.utils.version import package_version

if TYPE_CHECKING:
    pass

PORT = 8765
# Number of files that `count_left_out` lists for each reason.
_EXAMPLES = 10
# Number of images from which batches of searches run in several threads.
_PARALLEL_IMAGES = 50_000

# Path → methods.
PATHS = {
    # The router compares a path with the routes in this order.
    "/api/search": ("GET", "POST"),
    "/image/{id}": ("GET",),
    "/thumbnail/{id}": ("GET",),
    "/": ("GET",),
    "/static/{name}": ("GET",),
    "/health": ("GET",),
    "/metrics": ("GET",),
    "/openapi.json": ("GET",),
    "/api/index": ("GET",),
    "/v1/embeddings": ("POST",),
    "/v1/models": ("GET",),
}
_OPENAPI = pathlib.Path(__file__).parent / "openapi.yaml"
_PAGE = pathlib.Path(__file__).parents[1] / "page"
_SHARED = pathlib.Path(__file__).parents[2] / "export" / "web"
# Name below /static → file and media type. The name of the page itself is "".
_STATIC = {
    "": (_PAGE / "index.html", "text/html"),
    "page.css": (_SHARED / "page.css", "text/css"),
    "serve.css": (_PAGE / "serve.css", "text/css"),
    "serve.js": (_PAGE / "serve.js", "text/javascript"),
}


def serve(
    folder: str | os.PathLike | None = None,
    *,
    model: str | os.PathLike | Embedder | None = None,
    port: int = PORT,
    host: str = "127.0.0.1",
    token: str | None = None,
    access_log: Callable[[str], object] | None = None,
    on_ready: Callable[[str], object] = say,
) -> None:
    """Serves the page and the API of an index until an interrupt or SIGTERM.

    Running requests are finished before the function returns.

    Args:
        folder: path or address of the index, by default `default_index()`.
        model: model name, path or `Embedder`, by default the model of the index.
        port: port number, or 0 for any free port.
        host: `"127.0.0.1"` to accept connections from this machine only, another
            address of this machine, or `"0.0.0.0"` for all of them.
        token: token that requests must have. Without a token, `host` must be a
            loopback address, and requests must name 127.0.0.1 or localhost as their
            host.
        access_log: function that is called with a line for each request, or None.
        on_ready: function that is called with the address of the page.

    Raises:
        InputError: if `host` is not a loopback address and there is no token, or the
            port is not free.
    """
    if token is None and not is_loopback(host):
        raise InputError(
            "`host` must be a loopback address if the server has no token. Received: "
            f"host={host}. Set the environment variable {TOKEN_VARIABLE} to a token, "
            "for example of `openssl rand -hex 32`."
        )
    app = make_app(folder, model=model, token=token, access_log=access_log)
    # The garbage collector need not visit the objects of the modules again.
    gc.freeze()
    with open_port(port, host) as listening, stopping_gracefully():
        on_ready(page_address(listening))
        make_server(app).run([listening])


def make_app(
    folder: str | os.PathLike | None = None,
    *,
    model: str | os.PathLike | Embedder | None = None,
    token: str | None = None,
    access_log: Callable[[str], object] | None = None,
) -> Any:
    """Creates the ASGI application of an index.

    Args:
        folder: path or address of the index, by default `default_index()`.
        model: model name, path or `Embedder`, by default the model of the index.
        token: token that requests must have, or None.
        access_log: function that is called with a line for each request, or None.
    """
    metrics = ServerMetrics(list(PATHS))
    shared = SharedIndex(folder, model, metrics.record_texts)
    server = _Server(shared, metrics)
    endpoints = {
        "/": server.static,
        "/static/{name}": server.static,
        "/health": server.health,
        "/metrics": server.metrics,
        "/openapi.json": server.openapi,
        "/api/index": server.index_info,
        "/api/search": server.search,
        "/image/{id}": server.image,
        "/thumbnail/{id}": server.thumbnail,
        "/v1/embeddings": server.embeddings,
        "/v1/models": server.models,
    }
    routes = [
        Route(path, endpoints[path], methods=list(methods))
        for path, methods in PATHS.items()
    ]
    app = AccessMiddleware(Router(routes, redirect_slashes=False), token)
    return MetricsMiddleware(app, metrics, access_log)


class _Server:
    """Endpoints of the application."""

    def __init__(self, shared: SharedIndex, metrics: ServerMetrics) -> None:
        self._shared = shared
        self._metrics = metrics
        threads = os.cpu_count() or 1
        self._searches = WorkerPool(threads)
        # Searches in a small index mostly run Python code, of which one thread runs at
        # a time. A second thread would slow down the first one.
        is_large = len(shared.get().index) >= _PARALLEL_IMAGES
        num_batches = threads if is_large else 1
        self._batches = Batcher(self._search_together, self._searches, num_batches)
        self._images = WorkerPool(threads)
        self._bodies = BodyReader()
        self._static = {
            name: (file.read_bytes(), media_type)
            for name, (file, media_type) in _STATIC.items()
        }

    async def static(self, request: Request) -> Response:
        """Responds with the page or one of its files."""
        name = request.path_params.get("name", "")
        if name not in self._static:
            raise HTTPException(404)
        content, media_type = self._static[name]
        headers = {"Cache-Control": "no-cache"}
        return Response(content, headers=headers, media_type=media_type)

    async def health(self, request: Request) -> Response:
        """Responds immediately, to show that the server is running."""
        return json_response({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Responds with the metrics of the server for Prometheus."""
        content = await asyncio.to_thread(self._render_metrics)
        headers = {"Cache-Control": "no-store"}
        return Response(content, headers=headers, media_type=ServerMetrics.content_type)

    def _render_metrics(self) -> bytes:
        # Monitors need the other metrics most when the index cannot be read.
        with contextlib.suppress(InputError):
            self._metrics.images.set(len(self._shared.get().index))
        return self._metrics.render()

    async def openapi(self, request: Request) -> Response:
        """Responds with the OpenAPI document of the server."""
        return json_response(await asyncio.to_thread(self._describe_api))

    def _describe_api(self) -> dict[str, Any]:
        return _openapi_document(self._shared.get().index.model.dimension)

    async def models(self, request: Request) -> Response:
        """Responds with the model of the index in the form of OpenAI's list."""
        return json_response(await asyncio.to_thread(self._list_models))

    def _list_models(self) -> dict[str, Any]:
        return models_response(self._model_name())

    async def embeddings(self, request: Request) -> Response:
        """Responds with the embeddings of texts and images."""
        async with (
            self._bodies.read(request) as body,
            self._searches.thread() as run,
        ):
            return json_response(await run(self._embed, body))

    def _embed(self, body: bytes) -> Any:
        return embeddings_response(
            body, self._shared.get().index.model, self._model_name()
        )

    def _model_name(self) -> str:
        name: str = self._shared.get().index.store.header["model"]["name"]
        return name

    async def index_info(self, request: Request) -> Response:
        """Responds with the size, the model and the columns of the index."""
        async with self._searches.thread() as run:
            return json_response(await run(self._describe_index))

    def _describe_index(self) -> dict[str, Any]:
        index = self._shared.get().index
        return {
            "images": len(index),
            "model": index.store.header["model"]["name"],
            "columns": index.store.tables.columns,
            "values": index.searcher.column_values(),
            "text_weight": index.model.text_weight,
            "left_out": count_left_out(index.left_out()),
        }

    async def search(self, request: Request) -> Response:
        """Responds with the hits for words, an image or both."""
        search = read_search(request.query_params)
        if request.method != "POST":
            content = await self._batches.run(request, search)
        else:
            async with (
                self._bodies.read(request) as image,
                self._searches.thread() as run,
            ):
                content = await run(self._search_image, search, image)
        headers = {"Cache-Control": "no-store"}
        return Response(content, headers=headers, media_type="application/json")

    def _check_state(self, requested_state: str | None, state: str) -> None:
        """Raises RequestError if a request has ids from before a rebuild."""
        # After a rebuild, the same ids belong to other images.
        if requested_state not in (None, state):
            raise RequestError(
                410,
                "The index was built again, and its images have new ids. Search again.",
            )

    def _search_image(self, search: SearchRequest, image: bytes) -> str:
        """Returns the JSON of the hits for an image file, and for texts with it."""
        started = time.perf_counter()
        current = self._shared.get()
        self._check_state(search.state, current.state)
        model = current.index.model
        stored = [current.index.embedding(id) for id in search.query.images]
        pixels = read_query_image(image, model.image_transform)
        stored.append(model.encode_resized([pixels])[0])
        images = [*search.query.images, image]
        query = dataclasses.replace(search.query, image=images)
        embedding = query.encode(model, stored, current.texts)
        search = dataclasses.replace(search, query=query)
        hits = self._find_hits(current, search, embedding)
        return self._as_json(current, search, hits, started)

    def _search_together(
        self, searches: list[SearchRequest]
    ) -> Iterator[str | Exception]:
        """Yields the JSON of the hits, or an exception, for each search."""
        # The text encoder embeds the texts of all searches in one batch, and their
        # scores are computed together.
        started = time.perf_counter()
        self._metrics.batch_sizes.observe(len(searches))
        current = self._shared.get()
        texts = [text for search in searches for text in search.query.words]
        if len(searches) > 1 and texts:
            # Later calls find the embeddings in the cache.
            current.texts.encode_texts(texts)
        prepared = [self._prepare(current, search) for search in searches]
        embeddings = [array for array in prepared if isinstance(array, np.ndarray)]
        scanned: Iterator[ScannedRows] | None = None
        if len(embeddings) > 1:
            rows = current.index.store.scan_many(np.stack(embeddings))
            scanned = None if rows is None else iter(rows)
        for search, embedding in zip(searches, prepared, strict=True):
            if isinstance(embedding, Exception):
                yield embedding
                continue
            scores = None
            if scanned is not None and embedding is not None:
                scores = next(scanned)
            try:
                hits = self._find_hits(current, search, embedding, scores)
                yield self._as_json(current, search, hits, started)
            except Exception as error:
                yield error

    def _prepare(
        self, current: OpenIndex, search: SearchRequest
    ) -> np.ndarray | Exception | None:
        """Returns the embedding of a query, None without a query, or an exception."""
        query = search.query
        try:
            self._check_state(search.state, current.state)
            if not query.has_content:
                return None
            stored = [current.index.embedding(image) for image in query.images]
            return query.encode(current.index.model, stored, current.texts)
        except Exception as error:
            return error

    def _find_hits(
        self,
        current: OpenIndex,
        search: SearchRequest,
        embedding: np.ndarray | None,
        scanned: ScannedRows | None = None,
    ) -> list[Hit]:
        """Returns the hits of a search, and one more hit if it exists."""
        query = dataclasses.replace(search.query, k=search.last + 1)
        if embedding is None:
            return current.index.latest(query.where, query.k)
        return current.index.search(embedding, query, scanned)

    def _as_json(
        self,
        current: OpenIndex,
        search: SearchRequest,
        hits: list[Hit],
        started: float,
    ) -> str:
        """Returns the JSON of the response to a search."""
        advice = photo_advice(current.index.store, hits)
        return hits_as_json(hits, search, current.state, advice, started)

    async def image(self, request: Request) -> Response:
        """Responds with the file of an image, and keeps its thread until it is sent."""
        async with contextlib.AsyncExitStack() as stack:
            run = await stack.enter_async_context(self._images.thread())
            index, image = await run(self._find_image, request)
            if is_cached(request, image):
                return Response(status_code=304, headers=cache_headers(image))
            content, media_type = await run(as_browser_format, index, image)
            return ThreadHoldingResponse(
                content, media_type, cache_headers(image), stack.pop_all()
            )

    async def thumbnail(self, request: Request) -> Response:
        """Responds with a small copy of an image."""
        async with self._images.thread() as run:
            index, image = await run(self._find_image, request)
            headers = cache_headers(image)
            if is_cached(request, image):
                return Response(status_code=304, headers=headers)
            content = await run(make_thumbnail, index, image)
            return Response(content, headers=headers, media_type="image/jpeg")

    def _find_image(self, request: Request) -> tuple[Index, dict[str, Any]]:
        """Returns the index, and the columns of the image that a request names."""
        id = request.path_params["id"]
        current = self._shared.get()
        self._check_state(request.query_params.get("index"), current.state)
        try:
            return current.index, current.index.store.image(int(id))
        except ValueError:  # The text is no number, or the index has no such image.
            raise RequestError(404, f"The index has no image {id!r:.40}.") from None


def count_left_out(files: Iterable[LeftOutFile]) -> list[dict[str, Any]]:
    """Returns the number of files for each reason, as JSON data.

    >>> [counted] = count_left_out([LeftOutFile("a.jpg", "empty", "0 bytes")])
    >>> counted["reason"], counted["count"], counted["examples"]
    ('empty', 1, [{'path': 'a.jpg', 'detail': '0 bytes'}])
    """
    by_reason: dict[str, list[LeftOutFile]] = {}
    for file in files:
        by_reason.setdefault(file.reason, []).append(file)
    return [
        {
            "reason": reason,
            "count": len(by_reason[reason]),
            "examples": [
                {"path": file.path, "detail": file.detail}
                for file in by_reason[reason][:_EXAMPLES]
            ],
        }
        for reason in sorted(by_reason)
    ]


@functools.cache
def _openapi_document(dimension: int) -> dict[str, Any]:
    """Returns the OpenAPI document of a server whose embeddings have this length."""
    import yaml

    document = yaml.safe_load(_OPENAPI.read_text(encoding="utf-8"))
    document["info"]["version"] = package_version()
    request = document["components"]["schemas"]["EmbeddingRequest"]["properties"]
    request["dimensions"]["maximum"] = dimension
    return document
