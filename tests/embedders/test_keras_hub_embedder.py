"""Presets of KerasHub's CLIP and SigLIP have KerasHub's embeddings."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from align_keras.cli.main import main
from align_keras.embedders import load_model
from align_keras.models import ALIGN
from align_keras.search import Index, Query
from align_keras.utils.errors import InputError
from tests.helpers.embedder_case import (
    IMAGE_SIZES,
    TEXTS,
    assert_equal_directions,
    write_images,
)
from tests.helpers.oracle_process import needs

pytestmark = [pytest.mark.ci, needs("sentencepiece", "tensorflow_text")]

KINDS = ("clip", "siglip")


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Returns the folders of the presets by kind."""
    from tests.helpers.keras_hub_presets import write_preset

    root = tmp_path_factory.mktemp("presets")
    texts = [text for text in TEXTS if text]
    return {kind: write_preset(root / kind, kind, texts) for kind in KINDS}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_texts_have_the_embeddings_of_keras_hub(kind, presets, images):
    import keras_hub

    names = {"clip": "CLIP", "siglip": "SigLIP"}
    backbone = keras_hub.models.Backbone.from_preset(str(presets[kind]))
    preprocessor = getattr(keras_hub.models, f"{names[kind]}Preprocessor").from_preset(
        str(presets[kind])
    )
    embedder = load_model(presets[kind])
    # The logits of both towers together are KerasHub's own use of the model.
    features = [
        preprocessor(
            {"images": np.asarray(Image.open(path))[np.newaxis], "prompts": [text]}
        )
        for path, text in zip(images, (TEXTS * 2)[: len(images)], strict=True)
    ]
    inputs = {
        name: np.concatenate([np.asarray(row[name]) for row in features])
        for name in ("images", "token_ids")
    }
    logits = np.asarray(backbone(inputs)["vision_logits"])
    image_embeddings = embedder.encode_images(images)
    text_embeddings = embedder.encode_texts((TEXTS * 2)[: len(images)])
    assert image_embeddings.shape == (len(IMAGE_SIZES), embedder.dimension)
    np.testing.assert_allclose(np.linalg.norm(text_embeddings, axis=1), 1, atol=1e-6)
    cosines = image_embeddings @ text_embeddings.T
    # Logits are cosines times a factor, and with SigLIP plus a bias.
    slope, bias = np.polyfit(cosines.ravel(), logits.ravel(), 1)
    np.testing.assert_allclose(slope * cosines + bias, logits, atol=1e-3)
    assert_equal_directions(cosines, (logits - bias) / slope)


def test_the_description_and_empty_inputs(presets):
    embedder = load_model(presets["clip"])
    assert (embedder.runtime, embedder.image_size, embedder.dimension) == (
        "keras",
        32,
        24,
    )
    assert embedder.encode_images([]).shape == (0, 24)
    assert embedder.encode_texts([]).shape == (0, 24)
    # Start, dog and end.
    assert embedder.count_tokens(["dog"]) == 3
    assert embedder.count_tokens([]) == 0
    assert embedder.encode_texts(["\ud800 dog"]).shape == (1, 24)
    short = load_model(presets["clip"], dimensions=16)
    assert short.encode_texts(["a dog"]).shape == (1, 16)


def test_an_index_finds_an_image(presets, images, tmp_path):
    index = Index.build(tmp_path / "index", [images[0].parent], str(presets["siglip"]))
    assert index.query(Query(image=images[4]))[0].path == str(images[4])
    assert index.query("a dog")


def test_the_preset_cannot_be_trained(presets):
    with pytest.raises(InputError, match="finetune --teacher"):
        ALIGN.from_preset(presets["clip"])


def test_only_keras_runs_it(presets):
    with pytest.raises(InputError, match="runtime"):
        load_model(presets["clip"], runtime="openvino")


@pytest.mark.parametrize(
    "file", ["model.weights.h5", "assets/tokenizer/vocabulary.spm", "config.json"]
)
def test_a_damaged_preset_is_refused(file, presets, images, tmp_path, capsys):
    folder = tmp_path / "preset"
    shutil.copytree(presets["siglip"], folder)
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    index = tmp_path / "index"
    command = ["index", str(images[0].parent), "--index", str(index)]
    assert main([*command, "--model", str(folder)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("align-keras index: error: ")
    assert str(folder) in error
    assert not index.exists()


def test_a_preset_without_image_converter_is_refused(presets, tmp_path):
    folder = tmp_path / "preset"
    shutil.copytree(presets["siglip"], folder)
    (folder / "image_converter.json").unlink()
    settings = json.loads((folder / "preprocessor.json").read_text())
    settings["config"]["image_converter"] = None
    (folder / "preprocessor.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="image converter"):
        load_model(folder)


def test_other_classes_are_refused(presets, tmp_path):
    folder = tmp_path / "preset"
    shutil.copytree(presets["clip"], folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["config"]["vision_encoder"]["module"] = "subprocess"
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="subprocess"):
        load_model(folder)


def test_a_model_of_the_hub_is_downloaded(presets, hub_stub):
    hub_stub.add_model("keras/siglip", presets["siglip"])
    embedder = load_model("hf://keras/siglip")
    assert embedder.name.startswith("hf://keras/siglip")
    np.testing.assert_array_equal(
        embedder.encode_texts(["a dog"]),
        load_model(presets["siglip"]).encode_texts(["a dog"]),
    )
