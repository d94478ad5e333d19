"""Tests of the embedding cache: keys by content, damaged files, killed processes."""

import math
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from align_keras.protocols.embedding_cache import EmbeddingCache, content_digest
from align_keras.utils.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]


class Encoder:
    """Encoder of texts by their bytes, which records the texts that it encodes."""

    def __init__(self):
        self.encoded = []

    def __call__(self, texts):
        if "bad" in texts:
            raise InputError(f"not a text: {texts.index('bad')}")
        self.encoded.extend(texts)
        return np.array([self.row(text) for text in texts])

    @staticmethod
    def row(text):
        return [len(text), sum(text.encode()), 1.0]


def expected(texts):
    return np.array([Encoder.row(text) for text in texts], np.float32)


def test_each_content_is_encoded_once(tmp_path):
    encoder = Encoder()
    texts = [f"text {number}" for number in range(10)]
    first = EmbeddingCache(tmp_path, encoder, chunk=3)(texts + texts[:4])
    np.testing.assert_array_equal(first, expected(texts + texts[:4]))
    assert encoder.encoded == texts
    mixed = ["new", *texts[::-1], "new"]
    progress = []
    repeated = EmbeddingCache(tmp_path, encoder, chunk=4)(mixed, progress.append)
    np.testing.assert_array_equal(repeated, expected(mixed))
    assert encoder.encoded == [*texts, "new"]
    assert sum(progress) == len(mixed)
    in_order = EmbeddingCache(tmp_path, encoder)(texts)
    # The array is mapped, so that a large gallery takes no memory.
    assert isinstance(in_order, np.memmap)
    np.testing.assert_array_equal(in_order, expected(texts))
    assert EmbeddingCache(tmp_path, encoder)([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "lost_bytes"), [("digests", 31), ("embeddings", 13), ("checksums", 1)]
)
def test_incomplete_rows_are_computed_again(tmp_path, capsys, name, lost_bytes):
    texts = [f"text {number}" for number in range(8)]
    EmbeddingCache(tmp_path, Encoder())(texts)
    size = (tmp_path / name).stat().st_size
    os.truncate(tmp_path / name, size - lost_bytes)
    encoder = Encoder()
    actual = EmbeddingCache(tmp_path, encoder)(texts)
    np.testing.assert_array_equal(actual, expected(texts))
    row_bytes = {"digests": 20, "embeddings": 12, "checksums": 4}[name]
    lost_rows = math.ceil(lost_bytes / row_bytes)
    assert encoder.encoded == texts[-lost_rows:]
    remaining = len(texts) - lost_rows
    assert str(remaining) in capsys.readouterr().err


SLOW_WRITER = """
import sys, time
import numpy as np
from align_keras.protocols.embedding_cache import EmbeddingCache
from tests.protocols.test_embedding_cache import Encoder

def encode(texts):
    print("chunk", flush=True)
    time.sleep(0.01)
    return Encoder()(texts)

EmbeddingCache(sys.argv[1], encode, chunk=2)([f"text {n}" for n in range(10_000)])
"""


@pytest.mark.ci
def test_a_killed_writer_loses_one_chunk_at_most(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(20):
        assert process.stdout.readline() == "chunk\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    encoder = Encoder()
    texts = [f"text {number}" for number in range(60)]
    actual = EmbeddingCache(tmp_path, encoder)(texts)
    np.testing.assert_array_equal(actual, expected(texts))
    assert 15 <= len(encoder.encoded) <= 22


def test_a_folder_without_complete_rows_is_usable(tmp_path):
    """A kill at the start leaves no files, empty files, or rows without a width."""
    for number, files in enumerate(
        [{}, {"embeddings": 0, "digests": 0}, {"embeddings": 36, "digests": 40}]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, size in files.items():
            (folder / name).write_bytes(b"\1" * size)
        actual = EmbeddingCache(folder, Encoder())(["a", "bb"])
        np.testing.assert_array_equal(actual, expected(["a", "bb"]))
    (folder / "digests").unlink()
    (folder / "embeddings").unlink()
    encoder = Encoder()
    actual = EmbeddingCache(folder, encoder)(["a", "bb"])
    np.testing.assert_array_equal(actual, expected(["a", "bb"]))
    assert encoder.encoded == ["a", "bb"]


@pytest.mark.ci
def test_a_second_process_waits_and_reads_the_rows_of_the_first(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW_WRITER.replace("10_000", "60"), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [writer.communicate(timeout=60) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sum(out.count("chunk") for out, _ in outputs) == 30
    assert "waiting" in "".join(err for _, err in outputs)
    encoder = Encoder()
    texts = [f"text {number}" for number in range(60)]
    actual = EmbeddingCache(tmp_path, encoder)(texts)
    np.testing.assert_array_equal(actual, expected(texts))
    assert encoder.encoded == []


def test_rows_in_any_order_are_mapped(tmp_path):
    """Memory stays constant for rows in any order, and temporary files are removed."""
    texts = [f"text {number}" for number in range(50)]
    cache = EmbeddingCache(tmp_path, Encoder())
    cache(texts)
    files = sorted(path.name for path in tmp_path.iterdir())
    shuffled = cache(texts[::-1])
    assert isinstance(shuffled, np.memmap)
    np.testing.assert_array_equal(shuffled, expected(texts[::-1]))
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    # Rows that are added later don't change an array that was returned before.
    first = cache(texts)
    cache(["new"])
    np.testing.assert_array_equal(first, expected(texts))


def test_unreadable_items_are_rows_of_nan(tmp_path):
    texts = ["bad", "a", "b", "bad", "c"]
    encoder = Encoder()
    actual = EmbeddingCache(tmp_path, encoder)(texts)
    assert np.isnan(actual[[0, 3]]).all()
    np.testing.assert_array_equal(actual[[1, 2, 4]], expected(["a", "b", "c"]))
    EmbeddingCache(tmp_path, encoder)(texts)
    assert sorted(encoder.encoded) == ["a", "b", "c"]


def test_readable_items_are_returned_with_their_rows(tmp_path):
    texts = ["bad", "a", "b", "bad", "c"]
    embeddings, rows = EmbeddingCache(tmp_path, Encoder(), chunk=2).readable(texts)
    np.testing.assert_array_equal(embeddings, expected(["a", "b", "c"]))
    assert rows.tolist() == [1, 2, 4]
    assert isinstance(embeddings, np.memmap)

    def fail(items):
        raise AssertionError(f"{items} are encoded again")

    cache = EmbeddingCache(tmp_path, fail)
    assert cache.readable(texts)[1].tolist() == [1, 2, 4]
    for unreadable in (["bad"], []):
        embeddings, rows = cache.readable(unreadable)
        assert embeddings.shape == (0, 3)
        assert rows.tolist() == []


def test_chunks_of_unreadable_items_may_come_first(tmp_path):
    """The width of an embedding is unknown until the first readable item."""

    class Refusing(Encoder):
        def __call__(self, texts):
            unreadable = [text for text in texts if text.startswith("bad")]
            if unreadable:
                raise InputError(f"not a text: {unreadable[0]}")
            return super().__call__(texts)

    encoder = Refusing()
    texts = ["bad 1", "bad 2", "bad 3", "bad 1", "a", "b"]
    embeddings, rows = EmbeddingCache(tmp_path, encoder, chunk=2).readable(texts)
    np.testing.assert_array_equal(embeddings, expected(["a", "b"]))
    assert rows.tolist() == [4, 5]
    assert EmbeddingCache(tmp_path, None).readable(texts)[1].tolist() == [4, 5]


def test_only_unreadable_items_raise_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(InputError):
            EmbeddingCache(tmp_path, Encoder(), chunk=1)(["bad"])


def test_a_diverged_model_raises_an_error(tmp_path):
    def encode(texts):
        return np.where([[text == "b"] for text in texts], np.nan, np.ones((1, 3)))

    with pytest.raises(InputError, match="finite"):
        EmbeddingCache(tmp_path, encode)(["a", "b", "c"])
    encoder = Encoder()
    EmbeddingCache(tmp_path, encoder)(["a", "b", "c"])
    # The failed call stored no row.
    assert encoder.encoded == ["a", "b", "c"]


def test_the_digest_depends_on_the_content_and_not_on_the_path(tmp_path):
    file = tmp_path / "file"
    copy = tmp_path / "copy"
    file.write_bytes(b"image")
    copy.write_bytes(b"image")
    digest = content_digest(file)
    assert digest == content_digest(copy) == content_digest(b"image")
    assert digest != content_digest("image")
    pixels = np.zeros((2, 3, 3), np.uint8)
    assert content_digest(pixels) != content_digest(pixels.reshape(3, 2, 3))
    with pytest.raises(OSError, match="zero"):
        content_digest(pathlib.Path("/dev/zero"))


def test_a_damaged_width_causes_all_rows_to_be_computed_again(tmp_path, capsys):
    texts = [f"text {number}" for number in range(8)]
    EmbeddingCache(tmp_path, Encoder())(texts)
    content = (tmp_path / "width").read_bytes()
    for broken in (b"1" + content[1:], b"", b"-3"):
        (tmp_path / "width").write_bytes(broken)
        mapped = np.memmap(tmp_path / "embeddings", np.float32, "r")
        encoder = Encoder()
        np.testing.assert_array_equal(
            EmbeddingCache(tmp_path, encoder)(texts), expected(texts)
        )
        assert encoder.encoded == texts
        # Arrays that other processes have mapped keep their content.
        np.testing.assert_array_equal(mapped.reshape(8, 3), expected(texts))
        assert "damaged" in capsys.readouterr().err
        assert (tmp_path / "width").read_bytes() == content


def test_damaged_rows_are_computed_again(tmp_path, capsys):
    texts = [f"text {number}" for number in range(40)]
    EmbeddingCache(tmp_path, Encoder())(texts)
    random = np.random.default_rng(0)
    content = bytearray((tmp_path / "embeddings").read_bytes())
    positions = random.choice(len(content), 20, replace=False)
    for position in positions:
        content[position] ^= 1 << random.integers(8)
    (tmp_path / "embeddings").write_bytes(content)
    encoder = Encoder()
    actual = EmbeddingCache(tmp_path, encoder, chunk=7)(texts + texts[:5])
    np.testing.assert_array_equal(actual, expected(texts + texts[:5]))
    damaged_rows = sorted({position // 12 for position in positions.tolist()})
    assert encoder.encoded == [texts[row] for row in damaged_rows]
    assert "damaged" in capsys.readouterr().err
    # The new rows replace the damaged ones permanently.
    encoder = Encoder()
    repeated = EmbeddingCache(tmp_path, encoder)(texts)
    np.testing.assert_array_equal(repeated, expected(texts))
    assert encoder.encoded == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["checksums", "digests"])
def test_a_damaged_checksum_or_digest_costs_one_row(tmp_path, name):
    texts = [f"text {number}" for number in range(8)]
    EmbeddingCache(tmp_path, Encoder())(texts)
    content = bytearray((tmp_path / name).read_bytes())
    content[3] ^= 1
    (tmp_path / name).write_bytes(content)
    encoder = Encoder()
    actual = EmbeddingCache(tmp_path, encoder)(texts)
    np.testing.assert_array_equal(actual, expected(texts))
    assert encoder.encoded == texts[:1]
