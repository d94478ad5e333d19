"""Embeddings on disk: computed once, by content, whole after any kill."""

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
    """Embeds a text by its bytes, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        if "bad" in texts:
            raise InputError(f"not a text: {texts.index('bad')}")
        self.asked.extend(texts)
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
    assert encoder.asked == texts
    mixed = ["new", *texts[::-1], "new"]
    done = []
    again = EmbeddingCache(tmp_path, encoder, chunk=4)(mixed, done.append)
    np.testing.assert_array_equal(again, expected(mixed))
    assert encoder.asked == [*texts, "new"] and sum(done) == len(mixed)
    in_order = EmbeddingCache(tmp_path, encoder)(texts)
    # Mapped, so that a gallery of any size takes no memory.
    assert isinstance(in_order, np.memmap)
    np.testing.assert_array_equal(in_order, expected(texts))
    assert EmbeddingCache(tmp_path, encoder)([]).shape == (0, 3)


@pytest.mark.parametrize("name", ["digests", "embeddings"])
@pytest.mark.parametrize("lost", [1, 13, 61])
def test_half_written_rows_are_computed_again(tmp_path, capsys, name, lost):
    texts = [f"text {number}" for number in range(8)]
    EmbeddingCache(tmp_path, Encoder())(texts)
    size = (tmp_path / name).stat().st_size
    os.truncate(tmp_path / name, size - lost)
    encoder = Encoder()
    actual = EmbeddingCache(tmp_path, encoder)(texts)
    np.testing.assert_array_equal(actual, expected(texts))
    row = {"digests": 20, "embeddings": 12}[name]
    assert encoder.asked == texts[-math.ceil(lost / row) :]
    whole = len(texts) - math.ceil(lost / row)
    assert f"{whole} embeddings stay" in capsys.readouterr().err


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


def test_a_killed_writer_loses_a_chunk(tmp_path):
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
    assert 15 <= len(encoder.asked) <= 22


def test_a_kill_before_any_row_leaves_a_folder_that_works(tmp_path):
    """The states between the first files: none, empty ones, rows without a width."""
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
    assert encoder.asked == ["a", "bb"]


def test_two_processes_at_once(tmp_path):
    """The second waits, says so, and then finds most of what it needs."""
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
    assert "waiting for another process" in "".join(err for _, err in outputs)
    encoder = Encoder()
    texts = [f"text {number}" for number in range(60)]
    actual = EmbeddingCache(tmp_path, encoder)(texts)
    np.testing.assert_array_equal(actual, expected(texts))
    assert encoder.asked == []


def test_any_order_is_mapped(tmp_path):
    """So that memory stays flat however the rows lie; and nothing is left behind."""
    texts = [f"text {number}" for number in range(50)]
    cache = EmbeddingCache(tmp_path, Encoder())
    cache(texts)
    files = sorted(path.name for path in tmp_path.iterdir())
    shuffled = cache(texts[::-1])
    assert isinstance(shuffled, np.memmap)
    np.testing.assert_array_equal(shuffled, expected(texts[::-1]))
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    # An earlier array stays whole while the folder grows.
    first = cache(texts)
    cache(["more"])
    np.testing.assert_array_equal(first, expected(texts))


def test_items_that_cannot_be_read_are_rows_of_nan(tmp_path):
    texts = ["bad", "a", "b", "bad", "c"]
    encoder = Encoder()
    actual = EmbeddingCache(tmp_path, encoder)(texts)
    assert np.isnan(actual[[0, 3]]).all()
    np.testing.assert_array_equal(actual[[1, 2, 4]], expected(["a", "b", "c"]))
    EmbeddingCache(tmp_path, encoder)(texts)
    assert sorted(encoder.asked) == ["a", "b", "c"]


def test_readable_items_with_their_places(tmp_path):
    texts = ["bad", "a", "b", "bad", "c"]
    embeddings, kept = EmbeddingCache(tmp_path, Encoder(), chunk=2).readable(texts)
    np.testing.assert_array_equal(embeddings, expected(["a", "b", "c"]))
    assert kept.tolist() == [1, 2, 4] and isinstance(embeddings, np.memmap)

    def refuse(items):
        raise AssertionError(f"asked again for {items}")

    cache = EmbeddingCache(tmp_path, refuse)
    assert cache.readable(texts)[1].tolist() == [1, 2, 4]
    embeddings, kept = cache.readable(["bad"])
    assert embeddings.shape == (0, 3) and kept.tolist() == []
    embeddings, kept = cache.readable([])
    assert embeddings.shape == (0, 3) and kept.tolist() == []


def test_bad_items_before_all_others(tmp_path):
    """Whole chunks of them tell no width; the rest is computed all the same."""

    class Refusing(Encoder):
        def __call__(self, texts):
            wrong = [text for text in texts if text.startswith("bad")]
            if wrong:
                raise InputError(f"not a text: {wrong[0]}")
            return super().__call__(texts)

    encoder = Refusing()
    texts = ["bad 1", "bad 2", "bad 3", "bad 1", "a", "b"]
    embeddings, kept = EmbeddingCache(tmp_path, encoder, chunk=2).readable(texts)
    np.testing.assert_array_equal(embeddings, expected(["a", "b"]))
    assert kept.tolist() == [4, 5]
    assert EmbeddingCache(tmp_path, None).readable(texts)[1].tolist() == [4, 5]


def test_nothing_but_bad_items_is_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(InputError, match="not a text: 0"):
            EmbeddingCache(tmp_path, Encoder(), chunk=1)(["bad"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_model_is_an_error_and_no_bad_item(tmp_path, value):
    def encode(texts):
        return np.where([[text == "b"] for text in texts], value, np.ones((1, 3)))

    with pytest.raises(InputError, match="NaN or infinity for 1 of 3 items.*diverged"):
        EmbeddingCache(tmp_path, encode)(["a", "b", "c"])
    encoder = Encoder()
    EmbeddingCache(tmp_path, encoder)(["a", "b", "c"])
    assert encoder.asked == ["a", "b", "c"]  # Nothing of it was kept.


def test_content_counts_and_not_the_place(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"picture")
    other.write_bytes(b"picture")
    digest = content_digest(one)
    assert digest == content_digest(other) == content_digest(b"picture")
    assert digest != content_digest("picture")
    pixels = np.zeros((2, 3, 3), np.uint8)
    assert content_digest(pixels) != content_digest(pixels.reshape(3, 2, 3))
    with pytest.raises(InputError, match="/dev/zero .not a regular file"):
        content_digest(pathlib.Path("/dev/zero"))
    with pytest.raises(InputError, match="no readable image: .*missing.*check"):
        content_digest(tmp_path / "missing")


def test_a_broken_width_gives_no_rows_out_of_the_middle_of_others(tmp_path, capsys):
    texts = [f"text {number}" for number in range(8)]
    EmbeddingCache(tmp_path, Encoder())(texts)
    content = (tmp_path / "width").read_bytes()
    for broken in (b"1" + content[1:], b"1", b"", b"\xff", b"-3", content[:-1], b"0"):
        (tmp_path / "width").write_bytes(broken)
        mapped = np.memmap(tmp_path / "embeddings", np.float32, "r")
        encoder = Encoder()
        np.testing.assert_array_equal(
            EmbeddingCache(tmp_path, encoder)(texts), expected(texts)
        )
        assert encoder.asked == texts
        # Whoever reads it meanwhile keeps what was there.
        np.testing.assert_array_equal(mapped.reshape(8, 3), expected(texts))
        assert "is damaged (width); computing its emb" in capsys.readouterr().err
        assert (tmp_path / "width").read_bytes() == content


def test_a_cache_of_0_1_is_read_where_its_sizes_agree(tmp_path):
    texts = [f"text {number}" for number in range(8)]
    EmbeddingCache(tmp_path, Encoder())(texts)
    (tmp_path / "width").write_text("3")
    encoder = Encoder()
    np.testing.assert_array_equal(
        EmbeddingCache(tmp_path, encoder)([*texts, "new"]), expected([*texts, "new"])
    )
    assert encoder.asked == ["new"]


def test_damaged_rows_are_computed_again(tmp_path, capsys):
    texts = [f"text {number}" for number in range(40)]
    EmbeddingCache(tmp_path, Encoder())(texts)
    random = np.random.default_rng(0)
    content = bytearray((tmp_path / "embeddings").read_bytes())
    flipped = random.choice(len(content), 20, replace=False)
    for place in flipped:
        content[place] ^= 1 << random.integers(8)
    (tmp_path / "embeddings").write_bytes(content)
    encoder = Encoder()
    actual = EmbeddingCache(tmp_path, encoder, chunk=7)(texts + texts[:5])
    np.testing.assert_array_equal(actual, expected(texts + texts[:5]))
    damaged = sorted({place // 12 for place in flipped.tolist()})
    assert encoder.asked == [texts[row] for row in damaged]
    assert "embeddings are damaged and are computed again" in capsys.readouterr().err
    # The new rows replace the damaged ones for good.
    encoder = Encoder()
    again = EmbeddingCache(tmp_path, encoder)(texts)
    np.testing.assert_array_equal(again, expected(texts))
    assert encoder.asked == [] and capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["checksums", "digests"])
def test_other_damages_cost_a_row_each(tmp_path, name):
    texts = [f"text {number}" for number in range(8)]
    EmbeddingCache(tmp_path, Encoder())(texts)
    content = bytearray((tmp_path / name).read_bytes())
    content[3] ^= 1
    (tmp_path / name).write_bytes(content)
    encoder = Encoder()
    actual = EmbeddingCache(tmp_path, encoder)(texts)
    np.testing.assert_array_equal(actual, expected(texts))
    assert encoder.asked == texts[:1]


def test_a_cache_of_an_earlier_version_gets_checksums(tmp_path):
    texts = [f"text {number}" for number in range(8)]
    EmbeddingCache(tmp_path, Encoder())(texts)
    (tmp_path / "checksums").unlink()
    encoder = Encoder()
    np.testing.assert_array_equal(
        EmbeddingCache(tmp_path, encoder)(texts), expected(texts)
    )
    assert encoder.asked == [] and (tmp_path / "checksums").stat().st_size == 4 * 8
    # Rows that an earlier version adds without checksums get theirs too.
    os.truncate(tmp_path / "checksums", 4 * 5)
    EmbeddingCache(tmp_path, encoder)([*texts, "new"])
    assert encoder.asked == ["new"]
    assert (tmp_path / "checksums").stat().st_size == 4 * 9
