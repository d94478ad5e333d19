"""Shares of a search against the search in one piece."""

import functools

import numpy as np
import pytest

from align_keras.corpus import divided_search
from align_keras.corpus.divided_search import DividedSearch
from align_keras.corpus.near_duplicates import Pictures, find_duplicates
from align_keras.utils.errors import InputError

pytestmark = pytest.mark.ci

pytest.importorskip("cv2")

ONE, TWO = 1, 2


def planted(mode, count=3000, seed=0):
    """A corpus with near pictures, and an evaluation set of some of them."""
    random = np.random.default_rng(seed)
    source = random.integers(0, count // 2, count)
    if mode == "hash":
        bits = random.random((count // 2, 128)) < 0.5
        bits = bits[source] ^ (random.random((count, 128)) < 0.03)
        rows = np.packbits(bits, axis=1).view(np.uint64).reshape(count, 1, 2)
    else:
        rows = random.normal(size=(count // 2, 12))[source]
        rows = rows + 0.05 * random.normal(size=rows.shape)
        rows = rows.astype(np.float16)
    keys = [f"{number:04}" for number in random.permutation(count)]
    corpus = Pictures(keys, rows, random.integers(1, 9, count))
    names = [f"x{number}" for number in range(100)]
    return corpus, [Pictures(names, rows[:100], name="coco")]


def divided(search, folder, workers=ONE):
    """Divides whatever there is."""
    search.divided_from = search.placed_from = 1
    return DividedSearch(search, folder, workers=workers)


def find(mode, folder=None, workers=ONE, seed=0):
    """What is found, divided if there is a folder."""
    if mode == "embedding":
        pytest.importorskip("sklearn")
    divide = functools.partial(divided, folder=folder, workers=workers)
    divide = None if folder is None else divide
    # Several blocks a share.
    own = {"divide": divide, "block_rows": 256}
    return find_duplicates(*planted(mode, seed=seed), mode, **own)


@pytest.mark.parametrize("mode", ["hash", "embedding"])
@pytest.mark.parametrize("shares", [2, 5])
def test_shares_find_what_the_whole_finds(mode, shares, tmp_path, monkeypatch):
    monkeypatch.setattr(divided_search, "worker_count", lambda _: shares)
    expected = find(mode)
    assert {own.reference for own in expected} == {"", "coco"}
    assert 1000 < len(expected) < 2500
    assert find(mode, tmp_path) == expected
    methods = [divided_search.load_mapped(path) for path in tmp_path.glob("*.json")]
    methods = {own[1] for own in methods if isinstance(own, tuple)}
    assert methods == {"lowest"} | ({"place"} if mode == "embedding" else set())


@pytest.mark.parametrize("mode", ["hash", "embedding"])
def test_one_worker_and_little_work_stay_in_this_process(mode, tmp_path):
    expected = find(mode)
    assert find(mode, tmp_path) == expected
    divide = functools.partial(DividedSearch, folder=tmp_path, workers=TWO)
    assert find_duplicates(*planted(mode), mode, divide=divide) == expected
    assert not list(tmp_path.iterdir())


def test_a_killed_run_finds_the_shares_that_are_done(tmp_path, monkeypatch):
    monkeypatch.setattr(divided_search, "worker_count", lambda _: 3)
    calls = []

    def killed(function, tasks, *arguments, **options):
        calls.append(len(tasks))
        found = run_tasks(function, tasks[:2], *arguments, **options)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [*found, *run_tasks(function, tasks[2:], *arguments, **options)]

    run_tasks = divided_search.run_tasks
    monkeypatch.setattr(divided_search, "run_tasks", killed)
    with pytest.raises(KeyboardInterrupt):
        find("hash", tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert len(list(tmp_path.rglob("tasks/*.json"))) == 8
    assert find("hash", tmp_path) == find("hash")
    for path, changed in times.items():
        assert path.suffix == ".log" or path.stat().st_mtime_ns == changed, path
    # Of other pictures it finds nothing there.
    other = find("hash", tmp_path, seed=1)
    assert other == find("hash", seed=1)


def test_a_mistake_of_a_share_is_told_with_its_row(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(divided_search, "worker_count", lambda _: 2)
    corpus, [coco] = planted("embedding")
    coco = Pictures(corpus.keys, corpus.signatures.copy(), name="coco")
    coco.signatures[2999] = np.nan
    divide = functools.partial(divided, folder=tmp_path)
    options = {"divide": divide, "block_rows": 100}
    with pytest.raises(InputError, match="set 'coco' must be finite.*row 2999;"):
        find_duplicates(corpus, [coco], "embedding", **options)


@pytest.mark.parametrize("mode", ["hash", "embedding"])
def test_two_processes_find_what_one_finds(mode, tmp_path):
    assert find(mode, tmp_path, TWO) == find(mode)
    assert list(tmp_path.glob("tasks/*.json"))
