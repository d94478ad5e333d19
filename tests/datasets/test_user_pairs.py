"""Tests of the corpus `pairs`, from the user's files to the examples of TFDS."""

import os
import struct
import zlib

import fsspec
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.datasets.named_corpora import open_corpus
from align_keras.datasets.user_pairs import user_pairs_config
from align_keras.utils.errors import InputError


@pytest.fixture
def album(tmp_path):
    """A folder of twelve sound images and their table."""
    folder = tmp_path / "album"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(12):
        values = random.integers(0, 256, (30, 20, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    write_rows(folder, [(f"{number}.png", f"Number {number}") for number in range(12)])
    return folder


def write_rows(folder, rows):
    lines = ["image,caption", *(",".join(row) for row in rows)]
    (folder / "pairs.csv").write_text("\n".join(lines), "utf-8")


def build(folder, **options):
    return open_corpus(
        "pairs", pairs=folder / "pairs.csv", data_dir=folder.parent / "data", **options
    )


def png_of_claimed_size(width, height):
    """Returns a small PNG file whose header claims another size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99))):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + checksum
    return content


@pytest.mark.ci
def test_pairs_at_an_address_equal_pairs_in_a_folder(album, tmp_path):
    fs = fsspec.filesystem("memory")
    fs.put(str(album), "/album", recursive=True)
    url = "memory://album/pairs.csv"
    names = [user_pairs_config(url).name]
    remote = open_corpus("pairs", pairs=url, data_dir=tmp_path / "remote")
    local_examples, remote_examples = (
        tfds.as_numpy(builder.as_dataset(split="train"))
        for builder in (build(album), remote)
    )
    for local_example, remote_example in zip(
        local_examples, remote_examples, strict=True
    ):
        assert local_example["id"] == remote_example["id"]
        np.testing.assert_array_equal(local_example["image"], remote_example["image"])
    fs.pipe_file("/album/3.png", png_of_claimed_size(9, 9))
    names.append(user_pairs_config(url).name)
    fs.rm("/album", recursive=True)
    assert len(set(names)) == 2


def test_pairs_become_examples(album):
    builder = build(album)
    splits = builder.info.splits
    assert splits["train"].num_examples + splits["test"].num_examples == 12
    assert 1 <= splits["test"].num_examples <= 4
    for example in tfds.as_numpy(builder.as_dataset(split="all")):
        name = example["id"].decode()
        assert example["captions"].tolist() == [f"Number {name[:-4]}".encode()]
        original = np.asarray(Image.open(album / name), int)
        assert example["image"].shape == (30, 20, 3)
        assert np.abs(example["image"].astype(int) - original).mean() < 15


def test_large_images_are_reduced_and_keep_their_aspect_and_their_split(album):
    for number in range(3):
        gradient = Image.linear_gradient("L").resize((1200, 600 + number))
        gradient.save(album / f"{number}.png")
    splits = []
    for options, expected in (
        ({}, (346, 692, 3)),
        ({"shorter_side": 569}, (569, 1138, 3)),
    ):
        builder = build(album, **options)
        test = {row["id"] for row in tfds.as_numpy(builder.as_dataset("test"))}
        splits.append(test)
        shapes = {
            row["id"]: row["image"].shape
            for row in tfds.as_numpy(builder.as_dataset("all"))
        }
        assert shapes[b"0.png"] == expected
        assert shapes[b"5.png"] == (30, 20, 3)
    assert splits[0] == splits[1]


def test_bad_images_and_captions_are_counted_by_reason(album):
    (album / "empty.png").touch()
    (album / "noise.png").write_bytes(b"noise")
    (album / "cut.png").write_bytes((album / "0.png").read_bytes()[:500])
    (album / "bomb.png").write_bytes(png_of_claimed_size(10_000, 10_000))
    rows = [(f"{number}.png", f"Number {number}") for number in range(12)]
    rows += [
        (f"{name}.png", name) for name in ("empty", "noise", "cut", "bomb", "gone")
    ]
    rows += [("1.png", ""), ("2.png", "x" * 10_000)]
    write_rows(album, rows)
    with pytest.raises(InputError, match="7 of 19"):
        build(album)
    metadata = build(album, max_bad_fraction=0.37).info.metadata
    assert metadata["kept"] == 12
    assert metadata["dropped"] == {
        "empty": 1,
        "empty caption": 1,
        "long caption": 1,
        "missing": 1,
        "oversized": 1,
        "truncated": 1,
        "unreadable": 1,
    }
    assert metadata["examples"]["truncated"].startswith("pairs.csv line 16: ")


def test_unusual_image_modes_are_converted(album):
    image = Image.open(album / "0.png")
    image.convert("CMYK").save(album / "1.png", "JPEG")
    Image.fromarray(np.full((5, 5), 40_000, np.uint16)).save(album / "2.png")
    image.save(album / "3.png", "GIF", save_all=True, append_images=[image.rotate(90)])
    palette = image.convert("P")
    palette.save(album / "4.png", transparency=palette.getpixel((0, 0)))
    image.convert("L").save(album / "5.png")
    converted = build(album).info.metadata["converted"]
    assert sum(converted.values()) == 5
    assert converted["cmyk"] == converted["16-bit"] == converted["grayscale"] == 1
    assert converted["palette with transparency"] == 1
    assert any(kind.startswith("animated") for kind in converted)


def test_any_change_gives_another_configuration(album):
    table = album / "pairs.csv"
    names = [user_pairs_config(table).name]
    assert user_pairs_config(table).name == names[0]
    names.append(user_pairs_config(table, encoding="cp1252").name)
    status = os.stat(album / "3.png")
    os.utime(album / "3.png", ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    names.append(user_pairs_config(table).name)
    (album / "4.png").unlink()
    names.append(user_pairs_config(table).name)
    table.write_text(table.read_text().replace("Number 7", "Seven"))
    names.append(user_pairs_config(table).name)
    assert len(set(names)) == 5


def test_unchanged_pairs_are_not_built_again(album):
    build(album)
    calls = []
    builder = build(album, progress=lambda *call: calls.append(call))
    assert calls == [] and builder.info.metadata["kept"] == 12
    write_rows(album, [("0.png", "Zero"), ("1.png", "One")])
    builder = build(album, progress=lambda *call: calls.append(call))
    assert len(calls) == 2 and builder.info.metadata["kept"] == 2
    assert builder.info.splits["test"].num_examples == 1


def test_a_single_image_is_in_the_train_split(album):
    write_rows(album, [("0.png", "Zero")])
    assert set(build(album).info.splits) == {"train"}


def test_a_folder_of_images_and_text_files_is_read(album):
    (album / "pairs.csv").unlink()
    for number in range(12):
        (album / f"{number}.txt").write_text(f"Number {number}\nno {number}\n")
    builder = open_corpus("pairs", pairs=album, data_dir=album.parent / "data")
    assert builder.info.metadata["kept"] == 24
    assert builder.info.metadata["notes"]["images"] == 12
