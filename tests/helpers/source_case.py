"""Tests that each kind of source of image-caption pairs must pass."""

import io
import itertools
import os
import pathlib
import pickle
import shutil
import tarfile

import fsspec
import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.location import read_location
from align_keras.corpus.sources.source import evaluation_source, open_source, read_part
from align_keras.utils import remote
from align_keras.utils.errors import ImageError
from tests.helpers.mutated import check_folder
from tests.helpers.source_reading import read_source

STRANGE_NAME = 'a b,50%25#1?f=g:h&"x" Käse 木'
# Seconds since 1970. Readers cache a file by its modification time, and files that are
# written one after the other may have the same time.
_MODIFICATION_TIMES = itertools.count(1_000_000_000)


class SourceCase:
    """Base class for the tests of a kind of source.

    A subclass writes a source of a few images and has the pairs that are read from it.
    A test that makes no sense for the kind is set to None.

    Attributes:
        kind: the kind.
        path: path of the source relative to the folder, "" for the folder itself.
        pairs: (caption, rule, language) of each pair, in the order of the source.
        images: bytes of the image of each pair, or None for an image on the web.
        counts_losses: True if each lost pair of a damaged file is counted. In the other
            kinds, a damaged tag or cell looks like text.

    Example:

    ```python
    class TestTable(SourceCase):
        kind = "table"
        path = "pairs.csv"
        pairs = [("A cat", "caption", ""), ("A dog", "caption", "")]
        images = [b"cat", b"dog"]

        def write(self, folder):
            lines = ["image,caption", "1.png,A cat", "2.png,A dog"]
            (folder / "pairs.csv").write_text("\\n".join(lines))
            (folder / "1.png").write_bytes(b"cat")
            (folder / "2.png").write_bytes(b"dog")
    ```
    """

    kind = ""
    path = ""
    pairs: list = []
    images: list = []
    counts_losses = False

    def write(self, folder):
        """Writes the files of the source to a folder."""
        raise NotImplementedError

    def spec(self, folder):
        """Returns the specification of the source in a folder or at an address."""
        return f"{self.kind}:{os.path.join(folder, self.path)}"

    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / STRANGE_NAME
        folder.mkdir()
        self.write(folder)
        return folder

    def check(self, pairs, counter):
        assert [tuple(pair[1:4]) for pair in pairs] == self.pairs
        for pair, image in zip(pairs, self.images, strict=True):
            if image is not None:
                assert read_location(pair.image) == image
        assert not counter.bad

    def test_the_pairs_and_their_images_are_read(self, folder, tmp_path):
        self.check(*read_source(self.spec(folder), tmp_path / "spool"))

    def test_the_kind_is_recognized(self, folder):
        assert open_source(os.path.join(folder, self.path)).kind == self.kind

    def test_an_object_store_has_the_same_pairs(self, folder):
        fs = fsspec.filesystem("memory", use_listings_cache=False)
        fs.store.clear()
        remote.clear_caches()
        for path in folder.rglob("*"):
            if path.is_file():
                fs.pipe(f"/b/{path.relative_to(folder)}", path.read_bytes())
        self.check(*read_source(self.spec("memory://b")))
        fs.store.clear()

    def test_parts_and_fingerprint_depend_on_the_files(self, folder):
        source = open_source(self.spec(folder))
        parts, fingerprint = source.parts(), source.fingerprint()
        again = open_source(self.spec(folder))
        assert again.parts() == parts == sorted(parts)
        assert again.fingerprint() == fingerprint
        assert pickle.loads(pickle.dumps(parts)) == parts
        set_new_times(folder)
        assert source.fingerprint() != fingerprint

    def test_evaluation_images_are_read_once_without_captions(self, folder, tmp_path):
        pairs = []
        source = evaluation_source(self.spec(folder))
        for part in source.parts():
            pairs += read_part(part, DropCounter(), tmp_path / "spool")
        images = [pair.image for pair in read_source(self.spec(folder), tmp_path)[0]]
        assert len(pairs) == len(set(images))
        assert all(pair.caption == "" for pair in pairs)
        assert source.fingerprint() != open_source(self.spec(folder)).fingerprint()

    def test_removed_files_are_counted_as_vanished(self, folder, tmp_path):
        parts = open_source(self.spec(folder)).parts()
        shutil.rmtree(folder)
        counter = DropCounter()
        for part in parts:
            assert not list(read_part(part, counter, tmp_path / "spool"))
        assert list(counter.bad) == ["vanished"]

    @pytest.mark.parametrize(
        "count", [20, pytest.param(2_000, marks=pytest.mark.release)]
    )
    def test_damaged_files_are_read_or_refused(self, folder, count):
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        uncounted_losses = []

        def read():
            set_new_times(folder)
            pairs, counter = read_source(self.spec(folder))
            for pair in pairs:
                "".join(pair[:5]).encode()
                try:
                    read_location(pair.image)
                except ImageError:
                    pass
            if len(pairs) < len(self.pairs) and not counter.bad:
                uncounted_losses.append(pairs)

        read_count, refused_count = check_folder(folder, names, read, count)
        assert read_count and read_count + refused_count == count
        # The damage can end a line or look like the padding of an archive. This happens
        # in less than two of 1,000 cases.
        assert not self.counts_losses or len(uncounted_losses) <= count / 500


def set_new_times(folder):
    """Gives the files of a folder a new modification time."""
    seconds = next(_MODIFICATION_TIMES)
    for file in pathlib.Path(folder).rglob("*"):
        os.utime(file, (seconds, seconds))


def write_members(path, members, **options):
    """Writes a tar from tuples (name, bytes) and returns its path."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
