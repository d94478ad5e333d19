"""Tests of the folder of a search page and of its images. No browser is needed."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from align_keras.export.web_page import LITERT_JS_VERSION, check_litert_js
from align_keras.models import ALIGN
from align_keras.runs.export_web import embed_page_images, read_run_images, write_web
from align_keras.search import Index
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_encoders
from tests.helpers.small_run import draw, write_pairs


@pytest.fixture(scope="module")
def align():
    encoders = small_encoders(num_stages=1)
    return ALIGN.from_encoders(*encoders, vocabulary=VOCABULARY)


def test_images_of_a_table_are_embedded(align, tmp_path):
    page_images = embed_page_images(align, str(write_pairs(tmp_path)))
    assert len(page_images.images) == len(page_images.embeddings) == 40
    image = page_images.images[0]
    assert image.captions[0].split()[-2:] == ["red", "circle"]
    drawing = draw("red", "circle")
    # The table's PNG file has the pixels of the drawing.
    expected = align.encode_images([np.asarray(drawing)])[0]
    np.testing.assert_allclose(page_images.embeddings[0], expected, atol=1e-6)
    assert Image.open(io.BytesIO(image.thumbnail)).size == drawing.size


def test_images_of_a_folder_are_embedded(align, tmp_path, capsys):
    """Images need no captions. Their EXIF orientation is applied."""
    wide = Image.fromarray(np.arange(48 * 24, dtype="uint8").reshape(24, 48))
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "b").mkdir()
    wide.save(tmp_path / "b" / "wide.png")
    wide.save(tmp_path / "a.JPG", exif=turned)
    (tmp_path / "b" / "wide.txt").write_text("a wide one\nstripes\n")
    (tmp_path / "c.png").write_bytes(b"not an image")
    (tmp_path / ".hidden.png").write_bytes(b"not an image")
    large = wide.resize((1000, 700))
    large.save(tmp_path / "d.png")
    images = embed_page_images(align, str(tmp_path)).images
    assert [(image.id, image.captions) for image in images] == [
        ("a.JPG", []),
        ("b/wide.png", ["a wide one", "stripes"]),
        ("d.png", []),
    ]
    sizes = [Image.open(io.BytesIO(image.thumbnail)).size for image in images]
    assert sizes == [(24, 48), (48, 24), (320, 224)]
    messages = capsys.readouterr().err
    assert "unreadable: c.png" in messages
    assert "caption" not in messages


def test_a_folder_without_readable_images_is_refused(align, tmp_path):
    (tmp_path / "c.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match="1 unreadable"):
        embed_page_images(align, str(tmp_path))


@pytest.mark.ci
def test_images_are_read_from_the_index_of_a_run(tmp_path):
    with pytest.raises(InputError, match="`index`"):
        read_run_images(str(tmp_path))
    folder = tmp_path / "index"
    ids = list("abcdefghijklmnop")
    images = [b"\x89PNG %d" % row for row in range(16)]
    Index.from_embeddings(np.eye(16), ids, ids, images=images, folder=folder)
    page_images = read_run_images(str(tmp_path))
    np.testing.assert_array_equal(page_images.embeddings, np.eye(16))
    assert [image.id for image in page_images.images] == ids
    assert [image.captions for image in page_images.images] == [[id] for id in ids]
    assert [image.thumbnail for image in page_images.images] == images
    assert {image.suffix for image in page_images.images} == {".png"}


def _empty(tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    return folder


@pytest.mark.ci
def test_the_files_of_a_page_are_complete(align, tmp_path, capsys):
    pairs = str(write_pairs(tmp_path / "pairs"))
    folder = _empty(tmp_path)
    runtime = fake_runtime(tmp_path / "node_modules")
    write_web(align, folder, None, images=pairs, litert_js=str(runtime))
    assert "MB, most of" in capsys.readouterr().err
    description = json.loads((folder / "model" / "model.json").read_text())
    assert (description["image_size"], description["resize_size"]) == (32, 38)
    assert description["max_pixels"] == 8192 * 6144
    for name, size in description["files"].items():
        assert (folder / name).stat().st_size == size
    assert set(description["files"]) == {
        "model/image.tflite",
        "model/text.tflite",
        "model/vocabulary.txt",
        "images/embeddings.bin",
        "images/images.json",
    }
    stored = np.fromfile(folder / "images" / "embeddings.bin", "<f4").reshape(40, 16)
    embeddings = embed_page_images(align, pairs).embeddings
    np.testing.assert_allclose(stored, embeddings, atol=1e-6)
    for entry in json.loads((folder / "images" / "images.json").read_text()):
        assert (folder / "images" / entry["thumbnail"]).is_file()
    dependencies = json.loads((folder / "package.json").read_text())["dependencies"]
    assert set(dependencies.values()) == {LITERT_JS_VERSION}
    copied = {
        file.relative_to(folder / "node_modules")
        for file in (folder / "node_modules").rglob("*")
        if file.is_file()
    }
    installed = {
        file.relative_to(runtime) for file in runtime.rglob("*") if file.is_file()
    }
    # The threaded runtime is not copied. It needs HTTP headers that static servers
    # don't send.
    not_copied = {file.name for file in installed - copied}
    assert not_copied == {"litert_wasm_threaded_internal.js"}


def fake_runtime(folder, version=LITERT_JS_VERSION):
    """Writes empty files with the names of those that npm installs."""
    core = folder / "@litertjs" / "core"
    wasm_utils = folder / "@litertjs" / "wasm-utils"
    wasm_names = [
        f"wasm/litert_wasm_{variant}internal.{suffix}"
        for variant in ("", "compat_")
        for suffix in ("js", "wasm")
    ]
    wasm_names.append("wasm/litert_wasm_threaded_internal.js")
    for package, package_names in ((core, wasm_names), (wasm_utils, ())):
        for name in ("README.md", "dist/index.js", *package_names):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(name)
        (package / "package.json").write_text(json.dumps({"version": version}))
    return folder


def test_the_runtime_is_checked(tmp_path):
    check_litert_js(fake_runtime(tmp_path / "complete"))
    for folder in (tmp_path, fake_runtime(tmp_path / "old", "0.1.1")):
        with pytest.raises(InputError, match=LITERT_JS_VERSION):
            check_litert_js(folder)
