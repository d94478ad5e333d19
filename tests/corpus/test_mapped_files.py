import pathlib
import pickle

import numpy as np
import pytest

from align_keras.corpus.hamming_search import HammingSearch
from align_keras.corpus.mapped_files import load_mapped, save_mapped
from align_keras.corpus.placed_embeddings import PlacedEmbeddings
from align_keras.utils.errors import InputError


def test_arrays_are_mapped_and_equal(tmp_path):
    rows = np.arange(12).reshape(3, 4)
    content = {"whole": rows, "part": (rows[:, ::2], np.zeros((0, 4), np.uint16), None)}
    found = load_mapped(save_mapped(content, tmp_path / "new"))
    assert isinstance(found["whole"], np.memmap)
    part, empty, nothing = found["part"]
    np.testing.assert_array_equal(found["whole"], rows)
    np.testing.assert_array_equal(part, rows[:, ::2])
    assert empty.shape == (0, 4) and empty.dtype == np.uint16 and nothing is None
    with pytest.raises(ValueError, match="read-only"):
        part[0, 0] = 1


def test_equal_content_has_one_file_and_other_content_another(tmp_path):
    first = save_mapped([np.arange(3), "a"], tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert save_mapped([np.arange(3), "a"], tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    others = [
        [np.arange(3), "b"],
        [np.arange(3, dtype=np.int32), "a"],
        [np.arange(3).reshape(1, 3), "a"],
        [np.arange(1, 4), "a"],
    ]
    paths = {first, *(save_mapped(own, tmp_path) for own in others)}
    assert len(paths) == 5
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_a_mapped_file_stays_where_it_is_but_its_parts_are_copied(tmp_path):
    path = tmp_path / "embeddings.npy"
    np.save(path, np.arange(12.0).reshape(4, 3))
    mapped = np.load(path, mmap_mode="r")
    found = load_mapped(save_mapped(mapped, tmp_path / "a"))
    assert found.filename == str(path)
    assert not list((tmp_path / "a").glob("*.npy"))
    for part in (mapped[1:], mapped[::-1], mapped.T, mapped[:, :2], mapped[[2, 0]]):
        found = load_mapped(save_mapped(part, tmp_path / "b"))
        assert found.tolist() == part.tolist()
    assert len(list((tmp_path / "b").glob("*.npy"))) == 5


def test_searches_come_back_as_they_were(tmp_path):
    search = HammingSearch(threshold=9)
    rows = np.arange(3)
    placed = PlacedEmbeddings(np.ones((3, 2), np.float16), rows, rows[:, None])
    found, other = load_mapped(save_mapped([search, placed], tmp_path))
    assert type(found) is HammingSearch and vars(found) == vars(search)
    assert other.embeddings.dtype == np.float16 and other.rows.tolist() == [0, 1, 2]


class Planted:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("planted"),)


def test_a_file_that_another_put_there_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_mapped({"name": "a"}, tmp_path)
    for content in (pickle.dumps(Planted(), 0), b'{"dict": {}}'):
        path.write_bytes(content)
        assert save_mapped({"name": "a"}, tmp_path) == path
        with pytest.raises(InputError, match="has changed; remove it"):
            load_mapped(path)
    with pytest.raises(TypeError, match="JSON"):
        save_mapped(Planted(), tmp_path)
    assert not pathlib.Path("planted").exists()
