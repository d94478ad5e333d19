"""Tests of the JSON files of COCO and Karpathy."""

import json
import os
import pathlib

import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.source import evaluation_source, open_source, read_part
from align_keras.corpus.sources.source_files import one_file
from align_keras.utils.errors import InputError
from tests.helpers.source_case import STRANGE_NAME, SourceCase
from tests.helpers.source_reading import read_source

COCO = {
    "info": {},
    "images": [
        {"id": 9, "file_name": "000009.jpg", "flickr_url": "https://f.org/9"},
        {"id": 5, "file_name": "a #5,%.jpg", "coco_url": "https://c.org/5"},
        {"id": 7, "file_name": "none.jpg"},
        {"file_name": "broken.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 5, "caption": "A cat."},
        {"id": 2, "image_id": 9, "caption": "A dog."},
        {"id": 3, "image_id": 5, "caption": " A\npet. "},
        {"id": 4, "image_id": 999, "caption": "without an image"},
        {"id": 5, "image_id": 9, "caption": None},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014" if split != "train" else "train2014",
            "filename": f"{number}.jpg",
            "split": split,
            "sentences": [{"raw": f"{split} {number}", "sentid": number, "tokens": []}]
            * 2,
        }
        for number, split in enumerate(["test", "train", "val", "restval"])
    ]
    + [{"filename": "broken"}],
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def create_image(path):
    """Creates an empty file, since the images are not decoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


class TestCOCO(SourceCase):
    kind = "coco"
    path = "a.json"
    pairs = [("A cat", "caption", ""), ("A dog", "caption", "")]
    images = [b"cat", b"dog"]
    counts_losses = True
    content = {
        "images": [
            {"id": 1, "file_name": f"{STRANGE_NAME}.jpg"},
            {"id": 2, "file_name": "b.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "caption": "A cat"},
            {"id": 2, "image_id": 2, "caption": "A dog"},
        ],
    }

    def write(self, folder):
        write(folder / "a.json", self.content)
        (folder / f"{STRANGE_NAME}.jpg").write_bytes(b"cat")
        (folder / "b.jpg").write_bytes(b"dog")


class TestKarpathy(TestCOCO):
    kind = "karpathy"
    counts_losses = False
    content = {
        "images": [
            {
                "filename": name,
                "filepath": "",
                "split": "train",
                "sentences": [{"raw": caption}],
            }
            for name, caption in ((f"{STRANGE_NAME}.jpg", "A cat"), ("b.jpg", "A dog"))
        ]
    }
    # Evaluation images are those of other splits.
    test_evaluation_images_are_read_once_without_captions = None


def test_the_pairs_of_coco_are_read(tmp_path):
    path = write(tmp_path / "annotations/captions_val2014.json", COCO)
    create_image(tmp_path / "val2014/a #5,%.jpg")
    pairs, counter = read_source(path)
    folder = f"{tmp_path}/val2014/"
    assert [(pair.image, pair.caption, pair.page_url) for pair in pairs] == [
        (folder + "000009.jpg", "A dog.", "https://f.org/9"),
        (folder + "a #5,%.jpg", "A cat.", "https://c.org/5"),
        (folder + "a #5,%.jpg", "A pet.", "https://c.org/5"),
    ]
    assert counter.bad == {"broken record": 3}


def test_a_karpathy_source_has_no_evaluation_splits(tmp_path):
    path = write(tmp_path / "dataset_coco.json", KARPATHY)
    create_image(tmp_path / "coco/val2014/3.jpg")
    pairs, counter = read_source(path)
    assert [(pair.image, pair.caption) for pair in pairs] == [
        (f"{tmp_path}/coco/train2014/1.jpg", "train 1"),
        (f"{tmp_path}/coco/train2014/1.jpg", "train 1"),
        (f"{tmp_path}/coco/val2014/3.jpg", "restval 3"),
        (f"{tmp_path}/coco/val2014/3.jpg", "restval 3"),
    ]
    assert counter.bad == {"broken record": 1}
    assert counter.filtered == {"evaluation set": 4}


def test_a_karpathy_evaluation_source_has_the_evaluation_splits(tmp_path):
    path = write(tmp_path / "dataset.json", KARPATHY)
    create_image(tmp_path / "train2014/1.jpg")
    spec = f"karpathy:{path}?images={tmp_path}"
    source, counter, pairs = evaluation_source(spec), DropCounter(), []
    for part in source.parts():
        pairs += read_part(part, counter)
    names = [pathlib.Path(pair.image).name for pair in pairs]
    assert names == ["0.jpg", "2.jpg"]
    assert counter.filtered == {"training set": 4}
    assert source.fingerprint() != open_source(spec).fingerprint()


def test_an_evaluation_source_has_images_without_captions(tmp_path):
    path = write(tmp_path / "coco.json", COCO)
    create_image(tmp_path / "none.jpg")
    [part] = evaluation_source(str(path)).parts()
    pairs = list(read_part(part, DropCounter()))
    names = [pathlib.Path(pair.image).name for pair in pairs]
    assert names == [image["file_name"] for image in COCO["images"][:3]]


def test_the_option_images_sets_the_image_folder(tmp_path):
    path = write(tmp_path / "a.json", COCO)
    create_image(tmp_path / "000009.jpg")
    folder = tmp_path / STRANGE_NAME
    pairs, _ = read_source(f"{path}?images={folder}")
    assert pairs[0].image == str(folder / "000009.jpg")
    default_source = open_source(f"{path}")
    source = open_source(f"{path}?images={folder}")
    assert source.fingerprint() != default_source.fingerprint()


def test_missing_images_raise_an_error_with_the_option(tmp_path):
    path = write(tmp_path / "a/b/x.json", COCO)
    with pytest.raises(InputError, match=r"\?images=DIR"):
        open_source(str(path)).parts()


def test_other_json_files_and_folders_raise_an_error(tmp_path):
    create_image(tmp_path / "000009.jpg")
    path = write(tmp_path / "x.json", {"images": [], "annotations": [{"bbox": []}]})
    with pytest.raises(InputError, match="kind"):
        open_source(str(path))
    path.write_text("{")
    with pytest.raises(InputError, match="coco"):
        open_source(f"coco:{path}").parts()
    with pytest.raises(InputError, match="folder"):
        open_source(f"coco:{tmp_path}")


def test_a_changed_file_is_counted_as_vanished(tmp_path):
    path = write(tmp_path / "x.json", COCO)
    create_image(tmp_path / "000009.jpg")
    [part] = open_source(str(path)).parts()
    for content in (COCO | {"images": COCO["images"][:1]}, []):
        path.write_text(json.dumps(content))
        counter = DropCounter()
        assert list(read_part(part, counter)) == []
        assert counter.bad == {"vanished": 1}


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg"])
def test_the_image_folder_is_found_after_an_invalid_name(tmp_path, name):
    create_image(tmp_path / "a.jpg")
    images = [{"id": 1, "file_name": name}, {"id": 2, "file_name": "a.jpg"}]
    annotations = [{"image_id": number, "caption": "A cat."} for number in (1, 2)]
    coco = {"images": images, "annotations": annotations}
    sentences = [{"raw": "A cat."}]
    common = {"split": "train", "sentences": sentences}
    images = [{"filename": file, **common} for file in (name, "a.jpg")]
    images.append({"filepath": name, "filename": "a.jpg", **common})
    for number, content in enumerate((coco, {"images": images})):
        path = write(tmp_path / f"{number}.json", content)
        pairs, counter = read_source(path)
        assert [pair.image for pair in pairs] == [str(tmp_path / "a.jpg")]
        assert counter.bad == {"broken record": 2}
    assert one_file(str(tmp_path / name)) is None


def test_image_names_may_be_invalid_in_utf8(tmp_path):
    # Python decodes the bytes of such a name to unpaired surrogates.
    name = os.fsdecode(b"\xff.jpg")
    create_image(tmp_path / name)
    images = [{"id": 1, "file_name": name}]
    annotations = [{"image_id": 1, "caption": "A cat."}]
    coco = {"images": images, "annotations": annotations}
    pairs, counter = read_source(write(tmp_path / "a.json", coco))
    assert len(pairs) == 1 and not counter.bad


def test_values_of_wrong_types_are_counted(tmp_path):
    row = {"id": 1, "file_name": "a.png", "flickr_url": 3.5}
    path = write(tmp_path / "a.json", {"images": [row], "annotations": []})
    pairs, counter = read_source(f"coco:{path}")
    assert not pairs and counter.bad == {"broken record": 1}
