"""The page of `align-keras serve` and the JSON API that it uses, on 127.0.0.1.

docs/pages/guides/serve.md tells the requests. Files are given out by the ID of an image
alone, and only with the very content that was indexed.
"""

import contextlib
import dataclasses
import hashlib
import io
import math
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from align_keras.corpus.image import ImageError
from align_keras.embedders import Embedder
from align_keras.search.image_files import (
    content_hash,
    read_file,
    read_query_image,
    read_upright,
)
from align_keras.search.image_index import Index, default_index
from align_keras.search.items import is_item, split_item
from align_keras.search.local_server import (
    Bodies,
    Guard,
    Held,
    Lane,
    Refusal,
    json_answer,
    make_server,
    open_port,
)
from align_keras.search.query import TEXT_WEIGHT, Query
from align_keras.utils.errors import InputError, needs
from align_keras.utils.progress import say

with needs("serve", "the page is served by Starlette and uvicorn"):
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route, Router

PORT = 8765
THUMBNAIL_SIDE = 320
# What one search answers with, and how far one may scroll.
PAGE_HITS, MAX_PAGE_HITS, MAX_HITS = 48, 200, 5_000
MAX_WORDS = 32

_PAGE = pathlib.Path(__file__).parent / "page"
_SHARED = pathlib.Path(__file__).parents[1] / "export" / "web"
# Name below /static → its file and type; the page itself has none.
_STATIC = {
    "": (_PAGE / "index.html", "text/html"),
    "page.css": (_SHARED / "page.css", "text/css"),
    "serve.css": (_PAGE / "serve.css", "text/css"),
    "serve.js": (_PAGE / "serve.js", "text/javascript"),
}
# What browsers show, by how the file begins.
_SHOWN = (
    (rb"\xff\xd8\xff", "image/jpeg"),
    (rb"\x89PNG\r\n\x1a\n", "image/png"),
    (rb"GIF8[79]a", "image/gif"),
    (rb"RIFF.{4}WEBP", "image/webp"),
    (rb"BM", "image/bmp"),
    (rb".{4}ftypavi[fs]", "image/avif"),
)


def serve(
    folder: str | os.PathLike | None = None,
    *,
    model: str | os.PathLike | Embedder | None = None,
    port: int = PORT,
    on_ready: Callable[[str], object] = say,
) -> None:
    """Serves an index's page and API on 127.0.0.1 until the process is interrupted."""
    app = make_app(folder, model=model)
    with open_port(port) as listening:
        on_ready(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        with contextlib.suppress(KeyboardInterrupt):
            make_server(app).run([listening])


def make_app(
    folder: str | os.PathLike | None = None,
    *,
    model: str | os.PathLike | Embedder | None = None,
    threads: int | None = None,
) -> Any:
    """Makes the ASGI application of an index, of so many searches at once."""
    server = _Server(_Shared(folder, model), threads or os.cpu_count() or 1)
    routes = [
        Route("/", server.static),
        Route("/static/{name}", server.static),
        Route("/api/about", server.about),
        Route("/api/search", server.search, methods=["GET", "POST"]),
        Route("/api/health", server.health),
        Route("/image/{id}", server.image),
        Route("/thumbnail/{id}", server.thumbnail),
    ]
    return Guard(Router(routes, redirect_slashes=False))


class _Shared:
    """The index, which all threads share, opened anew where it was built anew."""

    def __init__(self, folder, model):
        self._folder = default_index() if folder is None else folder
        self._model = model
        self._lock = threading.Lock()
        self._opened = None
        self.get()

    def get(self) -> Index:
        """Returns it; the first search has been done, which opens what is large."""
        with self._lock:
            stamp = self._stamp()
            if self._opened is None or self._opened[0] != stamp:
                index = Index.open(self._folder, self._model)
                index.query("a", k=1)
                self._opened = stamp, index
            return self._opened[1]

    def get_with_state(self) -> tuple[Index, str]:
        """Returns it, and a text that is another once it was built anew."""
        index = self.get()
        with self._lock:
            stamp, opened = self._opened
        text = repr(stamp if opened is index else None)
        return index, hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def _stamp(self):
        """Another when the index has been built anew."""
        try:
            status = os.stat(os.path.join(self._folder, "index.json"))
        except OSError:  # A database, or opening it tells what is wrong.
            return None
        return status.st_ino, status.st_mtime_ns


class _Server:
    """The requests' endpoints."""

    def __init__(self, shared, threads):
        self._shared = shared
        self._searches, self._images = Lane(threads), Lane(threads)
        self._bodies = Bodies()
        self._static = {
            name: (file.read_bytes(), kind) for name, (file, kind) in _STATIC.items()
        }

    async def static(self, request: Request) -> Response:
        """The page, whose address may hold a query, or a file of it."""
        found = self._static.get(request.path_params.get("name", ""))
        if found is None:
            raise HTTPException(404)
        headers = {"Cache-Control": "no-cache"}
        return Response(found[0], headers=headers, media_type=found[1])

    async def health(self, request: Request) -> Response:
        """Answers at once if the server runs, without a search."""
        return json_answer({"status": "ok"})

    async def about(self, request: Request) -> Response:
        """What is served."""
        async with self._searches.turn(request) as run:
            return json_answer(await run(self._about))

    def _about(self):
        index = self._shared.get()
        model = index.store.header["model"]["name"]
        return {"images": len(index), "model": model, "columns": index.store.columns}

    async def search(self, request: Request) -> Response:
        """Hits of words, an image or both."""
        asked, offset = _read_query(request.query_params)
        async with contextlib.AsyncExitStack() as stack:
            content = None
            if request.method == "POST":
                content = await stack.enter_async_context(self._bodies.read(request))
            run = await stack.enter_async_context(self._searches.turn(request))
            state = request.query_params.get("index")
            found = await run(self._search, asked, content, offset, state)
            return json_answer(found)

    def _check_state(self, asked_state, state):
        """Refuses ids of an index that was built anew, where they are other images."""
        if asked_state not in (None, state):
            raise Refusal(
                410,
                "The index was built again, and its images have new ids. Search again.",
            )

    def _search(self, asked, content, offset, asked_state):
        started = time.perf_counter()
        last = min(offset + asked.k, MAX_HITS)
        # One more than asked for tells whether there are more.
        query = dataclasses.replace(asked, k=last + 1)
        index, state = self._shared.get_with_state()
        self._check_state(asked_state, state)
        hits = _hits(index, query, content)
        return {
            "index": state,
            "hits": [_hit(hit, state) for hit in hits[offset:last]],
            "more": len(hits) > last and last < MAX_HITS,
            "seconds": round(time.perf_counter() - started, 4),
        }

    async def image(self, request: Request) -> Response:
        """An image's file, read and sent while it has a thread's place."""
        async with contextlib.AsyncExitStack() as stack:
            run = await stack.enter_async_context(self._images.turn(request))
            found = await run(self._found, request)
            if _is_known(request, found):
                return Response(status_code=304, headers=_caching(found))
            content, kind = await run(self._shown, found)
            return Held(content, kind, _caching(found), stack.pop_all())

    async def thumbnail(self, request: Request) -> Response:
        """An image made small."""
        async with self._images.turn(request) as run:
            found = await run(self._found, request)
            if _is_known(request, found):
                return Response(status_code=304, headers=_caching(found))
            content = await run(self._thumbnail, found)
            return Response(content, headers=_caching(found), media_type="image/jpeg")

    def _found(self, request):
        id = request.path_params["id"]
        # SQLite and PostgreSQL have ids of 64 bits.
        if not re.fullmatch("[0-9]{1,18}", id):
            raise Refusal(404, f"the index has no image {id!r:.40}.")
        index, state = self._shared.get_with_state()
        self._check_state(request.query_params.get("index"), state)
        try:
            return index.store.image(int(id))
        except InputError:
            raise Refusal(404, f"the index has no image {id!r:.40}.") from None

    def _shown(self, found: dict[str, Any]) -> tuple[bytes, str]:
        """Returns an image as a browser shows it: bytes and their type."""
        content = self._content(found)
        for begin, kind in _SHOWN:
            if re.match(begin, content, re.DOTALL):
                return content, kind
        return _jpeg(read_upright(content), 90), "image/jpeg"

    def _thumbnail(self, found: dict[str, Any]) -> bytes:
        image = read_upright(self._content(found), shorter_side=THUMBNAIL_SIDE)
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        return _jpeg(image, 82)

    def _content(self, found: dict[str, Any]) -> bytes:
        """Returns the bytes of an image if they are those that were indexed."""
        file = found["file"]
        if is_item(file):
            stored = self._shared.get().stored_image(found)
            if stored is None:
                id, _ = split_item(file)
                raise Refusal(404, f"the index holds no image of {id!r:.160}.")
            file = os.fsencode(stored)
        path = os.fsdecode(file)
        try:
            content, _ = read_file(file)
        except ImageError as error:
            raise Refusal(
                410, f"the image {path} can't be read any more ({error.detail})."
            ) from None
        if content_hash(content) != found["content"]:
            raise Refusal(
                410,
                f"the image {path} has changed since it was indexed; run `align-keras "
                "index` again.",
            )
        return content


# === What is asked ===

_PARAMETERS = ("text", "plus", "minus", "like", "where", "duplicates", "text_weight")


def _read_query(given):
    """The query and the offset of a request's parameters, checked."""
    unknown = set(given) - {*_PARAMETERS, "index", "k", "offset"}
    if unknown:
        raise InputError(
            f"a search must have parameters of {', '.join(_PARAMETERS)}, index, k and "
            "offset, "
            f"received {min(unknown)!r:.80}; leave it out."
        )
    words = {name: given.getlist(name) for name in ("text", "plus", "minus")}
    if sum(map(len, words.values())) > MAX_WORDS:
        raise InputError(
            f"text, plus and minus must be at most {MAX_WORDS} in all, received more; "
            "leave some out."
        )
    like = given.get("like")
    image = None if like is None else _number("like", like, 1, 2**63 - 1)
    weight = _number("text_weight", given.get("text_weight", TEXT_WEIGHT), 1e-6, 1e6)
    return Query(
        **{name: list(filter(str.strip, texts)) for name, texts in words.items()},
        image=image,
        where=given.get("where"),
        k=_number("k", given.get("k", PAGE_HITS), 1, MAX_PAGE_HITS),
        duplicates=_flag(given.get("duplicates")),
        text_weight=weight,
    ), _number("offset", given.get("offset", 0), 0, MAX_HITS)


def _flag(text: str | None) -> bool | None:
    """Returns the value of a parameter that is on or off, or None without it."""
    return None if text is None else text not in ("0", "", "false")


def _number(name, text, low, high):
    kind = float if isinstance(low, float) else int
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise InputError(
            f"{name} must be a number from {low} to {high}, received {text!r:.80}; "
            "correct it."
        )
    return value


# === What is answered ===


def _hits(index, query, content):
    """Hits of a query; `content` is the file of the image that was sent with it."""
    if content is not None:
        pixels = read_query_image(content, index.model.resize_to)
        stored = index.model.encode_resized([pixels])[0]
        query = dataclasses.replace(query, image=content)
        return index.search(query.encode(index.model, stored), query)
    return index.query(query)


def _hit(hit, state):
    columns = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in hit.columns.items()
    }
    return {
        **dataclasses.asdict(hit),
        "columns": columns,
        "image": f"/image/{hit.id}?index={state}",
        "thumbnail": f"/thumbnail/{hit.id}?index={state}",
    }


def _is_known(request, found):
    return _caching(found)["ETag"] in request.headers.get("if-none-match", "")


def _caching(found):
    tag = f'"{found["content"].hex()}"'
    return {"ETag": tag, "Cache-Control": "private, no-cache"}


def _jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return file.getvalue()
