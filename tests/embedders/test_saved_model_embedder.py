import numpy as np
import pytest

from align_keras import load_model
from align_keras.embedders import saved_model_embedder
from align_keras.embedders.locations import locate_model
from align_keras.utils.errors import InputError
from tests.helpers import tiny_export as tiny_exports


@pytest.fixture(scope="module")
def model(tiny_export):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(saved_model_embedder, "_BATCH_SIZE", 2)
        yield saved_model_embedder.SavedModelEmbedder(locate_model(tiny_export))


@pytest.fixture(scope="module")
def tiny():
    return tiny_exports


@pytest.fixture(scope="module")
def tiny_export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "export"
    return tiny_exports.write_tiny_export(folder)


def unit(*values):
    values = np.array([*values, 0.05])
    return values / np.linalg.norm(values)


def test_images_from_paths_and_bytes_remain_in_order(model, tiny, tmp_path):
    colors = ["red", "green", "blue", "red", "blue"]
    contents = [tiny.image_bytes(color) for color in colors]
    paths = [tmp_path / f"{row}.png" for row in range(5)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    expected = [unit(*np.array(tiny.COLORS[color]) / 255) for color in colors]
    embeddings = model.encode_images(paths)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    mixed = [contents[0], str(paths[1]), paths[2], contents[3], contents[4]]
    np.testing.assert_array_equal(model.encode_images(mixed), embeddings)


def test_texts_remain_in_order(model):
    embeddings = model.encode_texts(["a Red bird", "green", "", "blue BLUE red"])
    assert embeddings.dtype == np.float32
    expected = [unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 0), unit(1, 0, 2)]
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)


@pytest.mark.parametrize("format", ["JPEG", "GIF", "BMP", "WEBP"])
def test_image_formats_are_decoded(model, tiny, format):
    content = tiny.image_bytes("blue", size=16, format=format)
    np.testing.assert_allclose(
        model.encode_images([content])[0], unit(0, 0, 1), atol=0.02
    )


def test_errors_name_the_unreadable_image(model, tiny, tmp_path):
    good = tiny.image_bytes("red")
    (tmp_path / "good.png").write_bytes(good)
    (tmp_path / "bad.png").write_bytes(b"not an image")
    (tmp_path / "short.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("bad.png", "short.png", "empty.png"):
        images = [tmp_path / "good.png"] * 2 + [tmp_path / name]
        with pytest.raises(InputError, match=name):
            model.encode_images(images)
    with pytest.raises(FileNotFoundError, match="missing.png"):
        model.encode_images([tmp_path / "missing.png"])
    with pytest.raises(InputError, match="image 1"):
        model.encode_images([good, b"not an image"])


def test_the_newest_version_of_the_combined_export_opens(tmp_path, tiny_export):
    for name in ("align/2", "align/10", "align/notes", "image/11"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "align" / "10").rmdir()
    (tmp_path / "align" / "10").symlink_to(tiny_export)
    model = load_model(tmp_path)
    assert model.directory == tmp_path / "align" / "10"
    assert model.encode_texts(["red"]).shape == (1, 4)


@pytest.mark.ci
def test_missing_signatures_are_refused(tmp_path, tiny):
    write = tiny.write_tiny_export
    text_only = load_model(write(tmp_path / "text", signatures=("text",)))
    assert text_only.encode_texts(["red"]).shape == (1, 4)
    with pytest.raises(InputError, match="encode_image"):
        text_only.encode_images([tiny.image_bytes("red")])
    image_only = load_model(write(tmp_path / "image", signatures=("image",)))
    with pytest.raises(InputError, match="encode_text"):
        image_only.encode_texts(["red"])
    (tmp_path / "image" / "signatures.json").unlink()
    with pytest.raises(InputError, match="preprocessing"):
        load_model(tmp_path / "image")
