"""Unreachable images stay in the index, and deleted images are removed from it."""

import ctypes
import errno
import itertools
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from align_keras.search import Index
from align_keras.search.readers.image_files import ImageFile, find_images
from align_keras.utils.errors import InputError

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def build(tmp_path, colors):
    def build(*sources):
        return Index.build(tmp_path / "index", sources, colors.GOLDEN)

    return build


def stored(index):
    return sorted(map(os.fsdecode, index.store.stored_files()))


def unmount(folder, new_folder):
    """Simulates an unmounted disk, which leaves an empty folder at its mount point."""
    folder.rename(new_folder)
    folder.mkdir()


def test_an_empty_subfolder_keeps_its_images(build, photos, tmp_path, capsys):
    disk = photos / "Italy"
    (disk / "Rome").mkdir()
    (disk / "blue.jpg").rename(disk / "Rome" / "blue.jpg")
    build(photos)
    unmount(disk, tmp_path / "disk")
    (photos / "red.png").unlink()
    index = build()
    assert index.changes.removed == 1 and index.changes.unchanged == 2
    assert index.changes.unavailable == [str(disk)]
    assert str(disk) in capsys.readouterr().err
    assert stored(index) == [str(disk / "Rome/blue.jpg"), str(photos / "green.png")]
    # A file with the content of an unreachable image counts as that image, moved.
    (tmp_path / "disk" / "Rome" / "blue.jpg").rename(photos / "sea.jpg")
    index = build()
    assert (index.changes.renamed, index.changes.unchanged) == (1, 1)
    assert index.remove([disk.parent]) == 2


def test_images_of_a_deleted_subfolder_are_removed(build, photos):
    build(photos)
    (photos / "Italy" / "blue.jpg").unlink()
    (photos / "Italy").rmdir()
    index = build()
    assert index.changes.removed == 1 and len(index) == 2


def test_images_of_a_table_on_an_unmounted_disk_are_kept(
    build, photos, colors, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "lake.png").write_bytes(colors.image_bytes((0, 0, 200)))
    table = tmp_path / "table.csv"
    names = ["photos/red.png", "photos/green.png", "disk/lake.png"]
    table.write_text("image,caption\n" + "".join(f"{name},a\n" for name in names))
    build(table)
    unmount(disk, tmp_path / "unmounted")
    (photos / "red.png").unlink()
    index = build()
    assert stored(index) == [str(disk / "lake.png"), str(photos / "green.png")]
    assert index.changes.unavailable == [str(disk)]
    # Desktops that mount disks automatically also remove the mount point.
    disk.rmdir()
    assert len(build()) == 2
    # Images that the table no longer lists are removed.
    table.write_text("image,caption\nphotos/green.png,a\n")
    assert stored(build()) == [str(photos / "green.png")]


def test_a_link_to_an_unmounted_disk_stays_in_the_index(
    build, photos, tmp_path, colors
):
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "lake.png").write_bytes(colors.image_bytes((0, 0, 200)))
    (photos / "link.png").symlink_to(disk / "lake.png")
    assert len(build(photos)) == 4
    unmount(disk, tmp_path / "unmounted")
    assert len(build()) == 4
    # A disk that is not empty is mounted, so the target was deleted.
    (disk / "other").touch()
    assert len(build()) == 3


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
def test_a_changed_file_that_cannot_be_read_stays_in_the_index(
    build, photos, monkeypatch, number
):
    build(photos)
    path = os.fsencode(photos / "red.png")
    os.utime(path, (1, 1))

    def refuse(file, mode):
        if file == path:
            raise OSError(number, os.strerror(number), file)
        return open(file, mode)

    import align_keras.search.readers.image_files as image_files

    monkeypatch.setattr(image_files, "open", refuse, raising=False)
    index = build()
    assert len(index) == 3 and index.changes.removed == 0
    assert index.changes.unreadable.total() == 2
    monkeypatch.undo()
    (photos / "red.png").write_bytes(b"no image any more")
    assert build().changes.removed == 1


WITHOUT_PERMISSION = """
import sys
from align_keras.search import Index
index = Index.build(sys.argv[1], (), sys.argv[2])
print(len(index), index.changes.removed, *index.changes.unavailable)
"""


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="needs capabilities of Linux")
@pytest.mark.parametrize("mode", [0o444, 0o111])
def test_a_folder_without_permission_keeps_its_images(
    build, photos, tmp_path, colors, mode
):
    build(photos)
    folder = photos / "Italy"
    folder.chmod(mode)
    try:
        answer = subprocess.run(
            [
                sys.executable,
                "-c",
                WITHOUT_PERMISSION,
                tmp_path / "index",
                colors.GOLDEN,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            # Drops the capabilities with which root reads files without permission.
            preexec_fn=lambda: [
                ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
                for capability in (1, 2)
            ],
        )
    finally:
        folder.chmod(0o755)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split()[:2] == ["3", "0"]


@pytest.mark.ci
def test_an_unmounted_disk_keeps_its_images(build, photos, tmp_path, colors):
    disk = photos / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    is_root = sys.platform == "linux" and not os.geteuid()
    if not is_root or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a disk here")
    try:
        (disk / "lake.png").write_bytes(colors.image_bytes((0, 0, 200)))
        assert len(build(photos)) == 4
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    index = build()
    assert len(index) == 4 and index.changes.removed == 0
    assert index.changes.unavailable == [str(disk)]


def test_a_moved_source_is_not_embedded_again(build, photos, tmp_path, monkeypatch):
    before = {hit.id for hit in build(photos).latest()}
    (photos / "broken.jpg").unlink()
    photos.rename(tmp_path / "album")
    # Decoding an image would now fail.
    monkeypatch.setattr("align_keras.search.update.file_embedding.decode_photo", None)
    index = build(tmp_path / "album")
    assert index.changes.renamed == len(index) == 3
    assert {hit.id for hit in index.latest()} == before
    assert all(hit.path.startswith(str(tmp_path / "album")) for hit in index.latest())


def test_remove_refuses_an_empty_path(build, photos, monkeypatch):
    index = build(photos)
    monkeypatch.chdir(photos)
    with pytest.raises(InputError, match="remove"):
        index.remove([""])
    assert len(index) == 3
    assert index.remove([f"{photos}/Italy/"]) == 1
    assert index.remove(["."]) == 2


def test_removing_a_folder_keeps_images_of_other_sources(build, photos, colors):
    build(photos, photos / "Italy")
    index = build()
    assert index.remove([photos]) == 2
    (hit,) = index.latest()
    assert hit.path == str(photos / "Italy" / "blue.jpg")
    assert hit.columns["folder"] == "Italy"
    assert list(index.store.roots()) == [os.fsencode(photos / "Italy")]
    assert build().changes.unchanged == 1
    assert index.remove([photos / "Italy"]) == 1


def test_a_link_is_removed_by_its_path(build, photos):
    (photos / "link.png").symlink_to(photos / "red.png")
    index = build(photos)
    assert len(index) == 4
    assert index.remove([photos / "link.png"]) == 1
    assert str(photos / "red.png") in stored(index)


@pytest.mark.parametrize("year", [2500, 1600])
def test_a_file_from_another_century_is_indexed(build, colors, year):
    # Most file systems do not support such times, but tmpfs does.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        path = pathlib.Path(folder, "red.png")
        path.write_bytes(colors.image_bytes("red"))
        seconds = (year - 1970) * 365 * 86_400
        os.utime(path, ns=(seconds * 10**9,) * 2)
        if os.stat(path).st_mtime != seconds:
            pytest.skip("may not mount a disk here")
        index = build(folder)
        assert len(index) == 1
        assert build().changes.unchanged == 1
    (hit,) = index.query("red", k=1)
    assert "date" not in hit.columns and "year" not in hit.columns


def test_times_are_clipped_to_64_bits(photos):
    assert ImageFile(b"a", 1, 2**70).mtime_ns == 2**63 - 1
    assert ImageFile(b"a", 1, -(2**70)).mtime_ns == -(2**63 - 1)
    assert all(abs(image.mtime_ns) < 2**63 for image in find_images(bytes(photos)))


def test_a_table_of_numbers_beyond_64_bits_is_indexed(build, photos):
    table = photos.parent / "table.jsonl"
    table.write_text(
        '{"image": "photos/red.png", "caption": "a", "isbn": 9223372036854775808}\n'
        '{"image": "photos/green.png", "caption": "b", "isbn": -99999999999999999999}\n'
    )
    index = build(table)
    assert len(index) == 2 and all("isbn" in hit.columns for hit in index.latest())


def test_an_interrupt_saves_the_embedded_images(build, photos, colors, monkeypatch):
    for number in range(60):
        content = colors.image_bytes((number, 255 - number, 3 * number))
        (photos / f"{number:02}.png").write_bytes(content)

    from align_keras.search.update import file_embedding

    decode = file_embedding.decode_photo
    chunks = 5
    calls = itertools.count()

    def decode_or_interrupt(*arguments):
        if next(calls) == chunks * file_embedding.FILES_PER_CHUNK:
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(file_embedding, "decode_photo", decode_or_interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(photos)
    monkeypatch.undo()
    index = build()
    assert len(index) == 63 and index.changes.added <= 63 - 16
