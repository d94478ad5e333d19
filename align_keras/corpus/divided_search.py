"""A search for near pictures whose large steps are divided among workers."""

import pathlib

import numpy as np

from align_keras.corpus.embedding_clusters import one_thread
from align_keras.corpus.mapped_files import load_mapped, save_mapped
from align_keras.corpus.placed_embeddings import PlacedEmbeddings
from align_keras.corpus.workers import run_tasks, worker_count


class DividedSearch:
    """Does what a search does, its large steps on several workers.

    What is found is equal to what the search finds by itself. `lowest` answers each
    query by itself, so every worker gets a share of the queries, and all references;
    embeddings are put into clusters row by row. Steps with less work than the search's
    `divided_from` (queries × references) and `placed_from` (pictures × clusters) stay
    in this process, for starting workers takes seconds.

    What a task needs and what it finds are files, named by their content: a killed run
    finds the shares that were done.

    Args:
        search: `HammingSearch` or `EmbeddingSearch`.
        folder: str or path, for the files, on a disk that all workers see. They can be
            removed when the search is done.
        workers: int, as `run_tasks`.

    Example:

    >>> import tempfile
    >>> from align_keras.corpus.hamming_search import HammingSearch
    >>> search = DividedSearch(HammingSearch(), tempfile.mkdtemp())
    >>> hashes = search.place(np.uint64([[[7, 1]], [[5, 1]]]), "the corpus")
    >>> search.lowest(hashes, hashes, np.array([0, 1]), np.array([0, 1])).tolist()
    [0, 0]
    """

    def __init__(self, search, folder, workers=None):
        self.search = search
        self.folder = pathlib.Path(folder)
        self._workers = workers

    def fit(self, keys, signatures):
        """As the search's, in this process."""
        self.search.fit(keys, signatures)

    def place(self, signatures, where):
        """As the search's."""
        shares = 1
        if self.search.placing_work(signatures) >= self.search.placed_from:
            shares = worker_count(self._workers)
        if shares < 2:
            return self.search.place(signatures, where)
        # Whole blocks, so that each is multiplied in the form that it has here.
        block = self.search.block_rows
        blocks = -(-len(signatures) // block)
        edges = [blocks * own // shares * block for own in range(shares + 1)]
        edges[-1] = len(signatures)
        parts = [(signatures, where, *edges[own : own + 2]) for own in range(shares)]
        return PlacedEmbeddings.joined(self._run("place", parts))

    def take(self, placed, rows):
        """As the search's."""
        return self.search.take(placed, rows)

    def lowest(self, queries, references, ranks, below):
        """As the search's."""
        shares = 1
        if len(below) * len(ranks) >= self.search.divided_from:
            shares = worker_count(self._workers)
        if shares < 2:
            return self.search.lowest(queries, references, ranks, below)
        # Every so manyth: of those with high ranks more is compared.
        rows = [np.arange(own, len(below), shares) for own in range(shares)]
        found = self._run(
            "lowest",
            [(self.take(queries, own), references, ranks, below[own]) for own in rows],
        )
        best = np.empty_like(below)
        for own, part in zip(rows, found, strict=True):
            best[own] = part
        return best

    def _run(self, method, shares):
        """Calls a method of the search once a share; returns what it returned."""
        tasks = [
            {"call": str(save_mapped((self.search, method, own), self.folder))}
            for own in shares
        ]
        found = run_tasks(
            search_share, tasks, self.folder / "tasks", workers=self._workers
        )
        return [load_mapped(path) for path in found]


def search_share(task):
    """Does a share of a step of a search; a task of `run_tasks`.

    Args:
        task: dict with `call` (str, the file of a search, the name of its method, and
            the method's arguments).

    Returns:
        str, the file of what the method returned.
    """
    search, method, arguments = load_mapped(task["call"])
    with one_thread():  # There are as many workers as cores.
        found = getattr(search, method)(*arguments)
    return str(save_mapped(found, pathlib.Path(task["call"]).parent))
