"""Cache of text embeddings, and batches of concurrent queries."""

import asyncio
import collections
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request

from align_keras.search.serve.local_server import WorkerPool

# Number of texts whose embeddings are cached, 6 MB for embeddings of width 384.
CACHED_TEXTS = 4_096
# Characters. Longer texts are not cached, so that the keys take little memory.
_MAX_CACHED_LENGTH = 1_000
# Maximum number of queries that are searched together. The scores of a batch in an
# exact search take 64 bytes per image.
MAX_BATCH = 16
# Time in seconds after which a thread gives way to other kinds of requests.
_TURN_SECONDS = 0.05

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class TextCache:
    """Embeddings of the most recently used texts.

    Several threads may use the cache.

    Args:
        encode_texts: function from a list of n texts to their embeddings, float32
            (n, d).
        on_texts: function that is called with the number of cached texts and the number
            of embedded texts of each call.

    Example:

    >>> cache = TextCache(lambda texts: np.array([[len(text)] for text in texts]))
    >>> cache.encode_texts(["red", "blue"]).tolist()
    [[3], [4]]
    """

    def __init__(
        self,
        encode_texts: Callable[[list[str]], np.ndarray],
        on_texts: Callable[[int, int], object] | None = None,
    ) -> None:
        self._encode_texts = encode_texts
        self._on_texts = on_texts
        self._lock = threading.Lock()
        self._embeddings: collections.OrderedDict[str, np.ndarray]
        self._embeddings = collections.OrderedDict()

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts.

        Args:
            texts: sequence of n str, with n > 0.

        Returns:
            float32 (n, d), rows of unit length.
        """
        embeddings: dict[str, np.ndarray] = {}
        with self._lock:
            for text in texts:
                if text in self._embeddings:
                    self._embeddings.move_to_end(text)
                    embeddings[text] = self._embeddings[text]
        missing = [text for text in dict.fromkeys(texts) if text not in embeddings]
        if missing:
            rows = self._encode_texts(missing)
            # Copies, because a view would keep the embeddings of all texts in memory.
            new = {text: row.copy() for text, row in zip(missing, rows, strict=True)}
            embeddings |= new
            with self._lock:
                for text, row in new.items():
                    if len(text) <= _MAX_CACHED_LENGTH:
                        self._embeddings[text] = row
                while len(self._embeddings) > CACHED_TEXTS:
                    self._embeddings.popitem(last=False)
        if self._on_texts is not None:
            self._on_texts(len(embeddings) - len(missing), len(missing))
        return np.stack([embeddings[text] for text in texts])


@dataclasses.dataclass
class _Waiting(Generic[_Item, _Result]):
    """Call that waits for its batch."""

    request: Request
    item: _Item
    result: "asyncio.Future[_Result]"


class Batcher(Generic[_Item, _Result]):
    """Runs concurrent calls together.

    A call never waits for others to arrive. While all threads are busy, calls are
    collected, and the next free thread runs up to `MAX_BATCH` of them. A thread starts
    the next batch by itself, because passing it through the event loop takes as long as
    a search in a small index.

    Args:
        process: function from a list of items to an iterable with a result or an
            exception for each item. It is called in a thread of `pool`. Each result is
            returned to its caller before the next one is computed.
        pool: `WorkerPool`.
        threads: number of batches that run at the same time.
    """

    def __init__(
        self,
        process: Callable[[list[_Item]], Iterable[_Result | Exception]],
        pool: WorkerPool,
        threads: int,
    ) -> None:
        self._process = process
        self._pool = pool
        self._threads = threads
        # Protects the two attributes below.
        self._lock = threading.Lock()
        self._waiting: collections.deque[_Waiting[_Item, _Result]] = collections.deque()
        self._running = 0
        # The event loop only keeps weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, request: Request, item: _Item) -> _Result:
        """Returns the result of an item, or raises its exception.

        Raises:
            ClientDisconnect: if the client has closed the connection meanwhile.
        """
        result: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append(_Waiting(request, item, result))
            is_thread_free = self._running < self._threads
            if is_thread_free:
                self._running += 1
        if is_thread_free:
            task = asyncio.create_task(self._run_batches())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await result

    async def _run_batches(self) -> None:
        """Runs batches in a thread until no call is waiting."""
        loop = asyncio.get_running_loop()
        try:
            has_calls = True
            while has_calls:
                async with self._pool.thread() as run:
                    await self._end_disconnected()
                    has_calls = await run(self._run_turn, loop)
        except BaseException:
            with self._lock:
                self._running -= 1
            raise

    async def _end_disconnected(self) -> None:
        """Ends the calls of the next batch whose clients have gone."""
        with self._lock:
            next_calls = list(itertools.islice(self._waiting, MAX_BATCH))
        for waiting in next_calls:
            # While a user is typing, the page cancels all searches except the last.
            is_gone = await waiting.request.is_disconnected()
            if is_gone and not waiting.result.done():
                waiting.result.set_exception(ClientDisconnect())

    def _run_turn(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Runs batches for a short time in a thread. Returns False if no call waits."""
        end = time.monotonic() + _TURN_SECONDS
        while True:
            with self._lock:
                batch = self._take_batch()
                if not batch:
                    # A later call starts a thread again.
                    self._running -= 1
                    return False
            self._run_batch(batch, loop)
            if time.monotonic() >= end:
                return True

    def _take_batch(self) -> list[_Waiting[_Item, _Result]]:
        """Returns up to `MAX_BATCH` waiting calls that have not ended."""
        batch: list[_Waiting[_Item, _Result]] = []
        while self._waiting and len(batch) < MAX_BATCH:
            waiting = self._waiting.popleft()
            if not waiting.result.done():
                batch.append(waiting)
        return batch

    def _run_batch(
        self,
        batch: list[_Waiting[_Item, _Result]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Computes the results of a batch in a thread."""
        results: Iterable[_Result | Exception]
        num_done = 0
        try:
            results = self._process([waiting.item for waiting in batch])
            for waiting, result in zip(batch, results, strict=True):
                loop.call_soon_threadsafe(_return_result, waiting, result)
                num_done += 1
        except Exception as error:
            for waiting in batch[num_done:]:
                loop.call_soon_threadsafe(_return_result, waiting, error)


def _return_result(
    waiting: _Waiting[_Item, _Result], result: _Result | Exception
) -> None:
    """Ends the waiting of a call, unless its client has gone."""
    if waiting.result.done():
        return
    if isinstance(result, Exception):
        waiting.result.set_exception(result)
    else:
        waiting.result.set_result(result)
