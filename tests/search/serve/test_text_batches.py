"""Cache of text embeddings, and batches of concurrent queries."""

import asyncio
import threading
import time

import numpy as np

from align_keras.search.serve import text_batches
from align_keras.search.serve.local_server import WorkerPool
from align_keras.search.serve.text_batches import MAX_BATCH, Batcher, TextCache


class Encoder:
    """Text encoder that records its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, texts):
        self.calls.append(list(texts))
        return np.array([[len(text), 1] for text in texts], np.float32)


def test_only_new_texts_are_embedded():
    encoder = Encoder()
    counts = []
    cache = TextCache(encoder, on_texts=lambda *values: counts.append(values))
    assert cache.encode_texts(["a", "bb", "a"]).tolist() == [[1, 1], [2, 1], [1, 1]]
    assert cache.encode_texts(["ccc", "a"]).tolist() == [[3, 1], [1, 1]]
    assert encoder.calls == [["a", "bb"], ["ccc"]]
    assert counts == [(0, 2), (1, 1)]


def test_the_texts_used_last_stay_in_the_cache(monkeypatch):
    monkeypatch.setattr(text_batches, "CACHED_TEXTS", 2)
    encoder = Encoder()
    cache = TextCache(encoder)
    for texts in (["a"], ["b"], ["a"], ["c"], ["a"], ["b"]):
        cache.encode_texts(texts)
    assert encoder.calls == [["a"], ["b"], ["c"], ["b"]]
    # More texts than the cache has room for, and a text that is too long for it.
    assert len(cache.encode_texts([*"defg"])) == 4
    cache.encode_texts(["x" * 2_000])
    cache.encode_texts(["x" * 2_000])
    assert encoder.calls[-2:] == [["x" * 2_000]] * 2


class Client:
    """Stands in for the request of a client."""

    method = "GET"

    def __init__(self, is_gone=False):
        self.is_gone = is_gone

    async def is_disconnected(self):
        return self.is_gone


def run_batches(items, process, clients=None):
    """Runs calls at the same time. Returns results and exceptions in their order."""

    async def run_all():
        pool = WorkerPool(1)
        batcher = Batcher(process, pool, 1)
        calls = [
            batcher.run((clients or {}).get(item, Client()), item) for item in items
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(run_all())


def test_calls_that_arrive_together_run_together():
    sizes = []

    def process(items):
        sizes.append(len(items))
        return [item * 10 for item in items]

    items = [*range(MAX_BATCH + 3)]
    assert run_batches(items, process) == [item * 10 for item in items]
    assert sizes == [MAX_BATCH, 3]


def test_an_error_belongs_to_one_call():
    def process(items):
        return [ValueError("odd") if item % 2 else item for item in items]

    results = run_batches([0, 1, 2], process)
    assert (results[0], results[2]) == (0, 2)
    assert isinstance(results[1], ValueError)

    def fail(items):
        raise RuntimeError("broken")

    results = run_batches([0, 1], fail)
    assert [type(result) for result in results] == [RuntimeError] * 2


def test_results_are_returned_before_the_batch_ends():
    release = threading.Event()

    def process(items):
        yield "first"
        release.wait(10)
        raise RuntimeError("broken")

    async def run_all():
        batcher = Batcher(process, WorkerPool(1), 1)
        calls = [asyncio.create_task(batcher.run(Client(), n)) for n in range(3)]
        assert await asyncio.wait_for(calls[0], 5) == "first"
        release.set()
        return await asyncio.gather(*calls[1:], return_exceptions=True)

    assert [type(error) for error in asyncio.run(run_all())] == [RuntimeError] * 2


def test_calls_of_disconnected_clients_do_not_run():
    processed = []

    def process(items):
        processed.extend(items)
        return items

    results = run_batches([0, 1, 2], process, {1: Client(is_gone=True)})
    assert processed == [0, 2] and type(results[1]).__name__ == "ClientDisconnect"


def test_calls_after_a_pause_run(tmp_path):
    async def run_twice():
        batcher = Batcher(lambda items: items, WorkerPool(1), 1)
        first = await batcher.run(Client(), 1)
        # The call arrives before the task of the first batch is discarded.
        second = await asyncio.wait_for(batcher.run(Client(), 2), 10)
        return [first, second]

    assert asyncio.run(run_twice()) == [1, 2]


def test_other_requests_get_a_thread_between_batches():
    num_calls = num_processed = 0
    is_served = False

    def process(items):
        nonlocal num_processed
        num_processed += len(items)
        # After each batch, at least one other call is waiting. The last call may be
        # counted a moment before it waits.
        while num_calls < num_processed + 2 and not is_served:
            time.sleep(0.001)
        return items

    async def run_all():
        nonlocal is_served
        pool = WorkerPool(1)
        batcher = Batcher(process, pool, 1)

        async def keep_calling():
            nonlocal num_calls
            while not is_served:
                num_calls += 1
                await batcher.run(Client(), 0)

        callers = [asyncio.create_task(keep_calling()) for _ in range(2 * MAX_BATCH)]
        try:
            await asyncio.sleep(0.01)
            async with asyncio.timeout(5), pool.thread() as run:
                return await run(str, 5)
        finally:
            is_served = True
            await asyncio.gather(*callers)

    assert asyncio.run(run_all()) == "5"
