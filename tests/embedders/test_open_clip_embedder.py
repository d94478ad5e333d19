"""Models of open_clip in the ONNX layout of immich have open_clip's embeddings."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import align_keras
from align_keras.embedders import load_model
from align_keras.embedders.open_clip_texts import clean_text
from align_keras.models import ALIGN
from align_keras.search import Index, Query
from align_keras.utils.errors import InputError
from tests.helpers.embedder_case import TEXTS, assert_equal_directions, write_images
from tests.helpers.oracle_process import call_oracle, needs

pytestmark = [
    pytest.mark.ci,
    needs("ftfy", "onnx", "onnxruntime", "open_clip", "transformers"),
]

KINDS = (
    "clip",
    "mobileclip",
    "siglip",
    "siglip2",
    "xlm_roberta",
    "nllb",
    "m_clip",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Function that returns the folder of a kind of model."""
    root = tmp_path_factory.mktemp("open_clip")

    def model_of(kind):
        folder = root / kind
        if not folder.exists():
            call_oracle("open_clip_models", "write_model", folder, kind)
        return folder

    return model_of


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_texts_have_the_embeddings_of_open_clip(kind, models, images):
    folder = models(kind)
    embedder = load_model(folder)
    expected = call_oracle("open_clip_models", "embed_images", folder, kind, images)
    assert_equal_directions(embedder.encode_images(images), expected)
    expected = call_oracle("open_clip_models", "embed_texts", folder, kind, TEXTS)
    embeddings = embedder.encode_texts(TEXTS)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert_equal_directions(embeddings, expected)


def test_the_description_and_empty_inputs(models):
    embedder = load_model(models("siglip2"))
    assert (embedder.runtime, embedder.runtime_option) == ("onnx", "auto")
    assert (embedder.image_size, embedder.dimension) == (160, 64)
    assert embedder.encode_images([]).shape == (0, 64)
    assert embedder.encode_texts([]).shape == (0, 64)
    assert embedder.count_tokens(TEXTS[-1:]) == 64
    assert embedder.count_tokens([]) == 0
    np.testing.assert_array_equal(
        embedder.encode_texts(["\ud800 dog"]), embedder.encode_texts(["? dog"])
    )
    short = load_model(models("siglip2"), dimensions=16)
    assert short.encode_texts(["a dog"]).shape == (1, 16)


@pytest.mark.parametrize(
    "cleaning, expected",
    [
        ("whitespace", "A Red_Car & café!"),
        ("lower", "a red_car & café!"),
        ("canonicalize", "a red car café"),
        ("", " A  Red_Car &amp;amp; cafÃ©!"),
    ],
)
def test_texts_are_cleaned(cleaning, expected):
    assert clean_text(" A  Red_Car &amp;amp; cafÃ©!", cleaning) == expected


def test_digests_change_with_the_files_of_a_tower(models, tmp_path):
    before = load_model(models("siglip2"))
    folder = tmp_path / "model"
    shutil.copytree(models("siglip2"), folder)
    weights = folder / "textual" / "weights.data"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    after = load_model(folder)
    assert after.image_fingerprint == before.image_fingerprint
    assert after.text_fingerprint != before.text_fingerprint
    assert after.fingerprint != before.fingerprint


def without(*names):
    """Returns a function that deletes files."""
    return lambda folder: [(folder / name).unlink() for name in names]


def truncated(name):
    """Returns a function that writes the first half of a file."""

    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


def with_fields(name, **fields):
    """Returns a function that changes fields of a JSON file."""

    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def with_the_text_tower_as_image_tower(folder):
    shutil.copy(folder / "textual" / "model.onnx", folder / "visual" / "model.onnx")


@pytest.mark.parametrize(
    "change, expected",
    [
        (without("textual/tokenizer.json"), "textual/tokenizer.json"),
        (without("textual/model.onnx"), "textual/model.onnx"),
        (without("visual/model.onnx"), "visual/model.onnx"),
        (without("config.json"), "config.json"),
        (truncated("visual/model.onnx"), "visual.model.onnx"),
        (truncated("textual/model.onnx"), "textual.model.onnx"),
        (truncated("textual/tokenizer.json"), "textual.tokenizer.json"),
        (with_the_text_tower_as_image_tower, "visual.model.onnx"),
        (with_fields("visual/preprocess_cfg.json", resize_mode="fit"), "'fit'"),
        (with_fields("visual/preprocess_cfg.json", size=[32, 64]), "square"),
        (with_fields("visual/preprocess_cfg.json", size=64), "shape"),
        (with_fields("visual/preprocess_cfg.json", interpolation="x"), "'x'"),
        (with_fields("config.json", embed_dim=32), "embed_dim 32"),
        (with_fields("config.json", embed_dim="?"), "config.json"),
    ],
)
def test_other_folders_are_refused(change, expected, models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models("clip"), folder)
    change(folder)
    with pytest.raises(InputError, match=expected):
        embedder = load_model(folder)
        embedder.encode_images([np.zeros((40, 40, 3), np.uint8)])
        embedder.encode_texts(["a dog"])


@pytest.mark.parametrize("tower", ["visual", "textual"])
@pytest.mark.parametrize("change", [without, truncated])
def test_incomplete_external_weights_are_refused(tower, change, models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models("xlm_roberta"), folder)
    change(f"{tower}/weights.data")(folder)
    with pytest.raises(InputError, match=f"{tower}.model.onnx"):
        embedder = load_model(folder)
        embedder.encode_images([np.zeros((40, 40, 3), np.uint8)])
        embedder.encode_texts(["a dog"])


def test_a_tokenizer_without_its_padding_is_refused(models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models("siglip"), folder)
    (folder / "textual" / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="pad_token"):
        load_model(folder).encode_texts(["a dog"])


def test_onnx_files_of_another_layout_are_refused(models, tmp_path):
    (tmp_path / "onnx").mkdir()
    shutil.copy(models("clip") / "config.json", tmp_path)
    for name in ("vision_model", "text_model"):
        (tmp_path / "onnx" / f"{name}.onnx").touch()
    with pytest.raises(InputError, match="another layout"):
        load_model(tmp_path)


def test_weights_outside_the_folder_are_refused(models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models("siglip2"), folder)
    tower = folder / "textual" / "model.onnx"
    (folder / "textual" / "weights.data").rename(tmp_path / "weights.data")
    # Fields of protobuf have a length, so the path must have that of the old one.
    tower.write_bytes(tower.read_bytes().replace(b"weights.data", b"../secret.dt"))
    (tmp_path / "weights.data").rename(folder / "secret.dt")
    with pytest.raises(InputError, match="escapes"):
        load_model(folder).encode_texts(["a dog"])


def test_a_model_of_the_hub_is_downloaded_without_files_of_other_runtimes(
    models, hub_stub, images
):
    folder = models("siglip2")
    (folder / "visual" / "model.armnn").write_bytes(b"other runtime")
    hub_stub.add_model("user/siglip2", folder)
    embedder = load_model("hf://user/siglip2")
    np.testing.assert_array_equal(
        embedder.encode_images(images[:2]), load_model(folder).encode_images(images[:2])
    )
    assert not any("armnn" in path for path in hub_stub.downloads)
    assert any("weights.data" in path for path in hub_stub.downloads)


def test_an_index_finds_the_image_of_a_query(models, images, tmp_path):
    folder = models("siglip")
    index = Index.build(tmp_path / "index", [images[0].parent], str(folder))
    assert len(index) == len(images)
    # The index crops and resizes as `encode_images` does.
    stored = np.stack([index.embedding(hit.id) for hit in index.latest(k=20)])
    expected = load_model(folder).encode_images(images)
    assert np.max(stored @ expected.T, axis=0) == pytest.approx(1, abs=1e-5)
    hit, *_ = index.query(Query(image=images[3]))
    assert hit.score == pytest.approx(1, abs=1e-5)


def test_images_are_files_bytes_and_arrays(models, images, tmp_path):
    embedder = load_model(models("clip"))
    pixels = np.asarray(Image.open(images[0]))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    rows = embedder.encode_images([images[0], str(images[0]), file.getvalue(), pixels])
    np.testing.assert_array_equal(rows, rows[[0] * 4])
    path = tmp_path / "bad.png"
    path.write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"bad\.png"):
        embedder.encode_images([path])


def test_the_model_cannot_be_trained_or_exported(models, tmp_path):
    folder = models("clip")
    with pytest.raises(InputError, match="finetune --teacher"):
        ALIGN.from_preset(folder)
    with pytest.raises(InputError, match="finetune --teacher"):
        align_keras.export_model(str(folder), tmp_path / "out", "onnx")
