import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras import load_model
from align_keras.embedders.saved_model_embedder import has_unknown_operations
from align_keras.export import export_saved_model, saved_model
from align_keras.models import ALIGN
from align_keras.search import Index
from align_keras.search.readers.photos import read_query_image
from align_keras.utils.errors import InputError
from tests.export.export_inputs import (
    CAPTIONS,
    TOLERANCE,
    VOCABULARY,
    sample_image_files,
)
from tests.helpers.image_files import encoded, plain_cmyk_jpeg, readable_files, source
from tests.helpers.tensorflow_text_marks import needs_tensorflow_text

# Program that embeds with an export without Keras and this package. The test runs it
# with a locale in which ICU converts "I" to "ı".
EMBED_SCRIPT = """
import importlib.util, pathlib, sys
for name in ("keras", "keras_hub", "tf_keras", "align_keras"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
# `import tensorflow_text` would import Keras, so only its operations are loaded.
tf_text = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent
for library in sorted(tf_text.glob("python/ops/*.so")):
    tf.load_op_library(str(library))
folder = pathlib.Path(sys.argv[1])
inputs = np.load(folder / "inputs.npz", allow_pickle=True)
images = ("image_bytes", inputs["images"])
captions = ("captions", inputs["captions"])
outputs = {}
model = tf.saved_model.load(str(folder / "export" / "align" / "1"))
for name, (argument, values) in (
    ("encode_image", images), ("encode_text", captions), ("serving_default", captions)
):
    signature = model.signatures[name]
    for label, count in (("", len(values)), ("_one", 1), ("_none", 0)):
        batch = tf.constant(list(values[:count]), tf.string)
        for key, embedding in signature(**{argument: batch}).items():
            outputs[f"{name}/{key}{label}"] = embedding.numpy()
for key, values in model.tokenize(tf.constant(list(inputs["captions"]))).items():
    outputs[f"tokenize/{key}"] = values.numpy()
np.savez(folder / "outputs.npz", **outputs)
"""


@pytest.fixture(scope="module")
def outputs(folder):
    """Returns the outputs of the export in a process without this package."""
    np.savez(
        folder / "inputs.npz",
        images=np.array(sample_image_files(), object),
        captions=np.array([caption.encode() for caption in CAPTIONS], object),
    )
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }
    result = subprocess.run(
        [sys.executable, "-I", "-c", EMBED_SCRIPT, str(folder)],
        env={**environment, "LC_ALL": "tr_TR.UTF-8"},
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stderr[-1000:]
    return np.load(folder / "outputs.npz")


@pytest.mark.ci
def test_image_embeddings_equal_those_of_keras(model, outputs):
    expected = model.encode_images(sample_image_files())
    embedding = outputs["encode_image/image_embedding"]
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)
    assert outputs["encode_image/valid"].all()
    # The comparison would prove nothing if all embeddings were equal.
    assert np.abs(embedding[0] - embedding[1]).max() > 1e-2


@pytest.mark.ci
@pytest.mark.parametrize("key", ["encode_text", "serving_default"])
def test_text_embeddings_equal_those_of_keras(model, outputs, key):
    expected = model.encode_texts(CAPTIONS)
    embedding = outputs[f"{key}/text_embedding"]
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)
    assert np.abs(embedding[0] - embedding[1]).max() > 1e-3


@pytest.mark.ci
@pytest.mark.parametrize("name", ["image", "text"])
def test_exports_embed_batches_of_any_size(model, outputs, name):
    key = f"encode_{name}/{name}_embedding"
    dimension = model.image_encoder.output_shape[-1]
    np.testing.assert_allclose(np.linalg.norm(outputs[key], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        outputs[key + "_one"], outputs[key][:1], rtol=0, atol=TOLERANCE
    )
    assert outputs[key + "_none"].shape == (0, dimension)


@pytest.mark.ci
def test_the_image_export_has_operations_of_tensorflow_only(folder):
    assert not has_unknown_operations(tf, folder / "export" / "image" / "1")
    assert has_unknown_operations(tf, folder / "export" / "text" / "1")


@pytest.mark.ci
def test_the_graph_tokenizes_as_the_model(model, outputs):
    for name, values in model.tokenizer(CAPTIONS).items():
        np.testing.assert_array_equal(outputs[f"tokenize/{name}"], values)


@pytest.mark.ci
def test_variables_are_stored_once(model, folder):
    parameters = sum(
        int(np.prod(variable.shape))
        for encoder in (model.image_encoder, model.text_encoder)
        for variable in encoder.variables
    )
    stored = sum(
        file.stat().st_size
        for file in (folder / "export" / "align" / "1" / "variables").iterdir()
    )
    assert 4 * parameters <= stored < 1.05 * 4 * parameters + 50_000


@pytest.mark.ci
@pytest.mark.parametrize("servable", ["image", "text", "align"])
def test_signatures_json_describes_all_signatures(model, folder, servable):
    version = folder / "export" / servable / "1"
    description = json.loads((version / "signatures.json").read_text())
    signatures = tf.saved_model.load(str(version)).signatures
    assert set(description["signatures"]) == set(signatures)
    for name, signature in signatures.items():
        _, inputs = signature.structured_input_signature
        for side, specs in (
            ("inputs", inputs),
            ("outputs", signature.structured_outputs),
        ):
            described = description["signatures"][name][side]
            assert {
                key: (tensor["dtype"], tensor["shape"])
                for key, tensor in described.items()
            } == {
                key: (spec.dtype.name, spec.shape.as_list())
                for key, spec in specs.items()
            }
    expected = {
        "image": {"image_size": 64},
        "text": {
            "normalization": "bert_uncased",
            "sequence_length": 12,
            "vocabulary_size": len(VOCABULARY),
        },
    }
    if servable != "align":
        expected = {servable: expected[servable]}
    assert description["preprocessing"] == expected


@needs_tensorflow_text
def test_a_failed_export_does_not_change_an_earlier_export(
    model, tmp_path, monkeypatch
):
    target = write_earlier_export(tmp_path)

    def save_to_full_disk(server, path, signatures):
        os.makedirs(path)
        with open(os.path.join(path, "saved_model.pb"), "w") as file:
            file.write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", save_to_full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_saved_model(model, target)
    assert [file.name for file in tmp_path.iterdir()] == ["export"]
    assert (target / "text" / "1" / "saved_model.pb").read_text() == "old"


def write_earlier_export(tmp_path):
    target = tmp_path / "export"
    for name in ("image", "text", "align"):
        (target / name / "1").mkdir(parents=True)
        (target / name / "1" / "saved_model.pb").write_text("old")
    return target


@needs_tensorflow_text
def test_only_an_earlier_export_is_replaced(model, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "write_saved_models", _write_model_card)
    target = write_earlier_export(tmp_path)
    export_saved_model(model, target)
    assert [file.name for file in target.iterdir()] == ["README.md"]
    # A folder with only a README.md may belong to the user.
    message = r"contains README\.md"
    with pytest.raises(InputError, match=message):
        export_saved_model(model, target)
    export_with_notes = write_earlier_export(tmp_path / "notes")
    (export_with_notes / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"contains notes\.txt"):
        export_saved_model(model, export_with_notes)
    assert (export_with_notes / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    export_saved_model(model, tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match="directory .*current folder"):
        export_saved_model(model, ".")


def _write_model_card(model, folder, **options):
    (folder / "README.md").write_text("new")


@needs_tensorflow_text
def test_invalid_arguments_are_refused(model, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="directory .*a file"):
        export_saved_model(model, file)
    assert file.read_text() == ""
    with pytest.raises(
        InputError,
        match="weights must .*weights='int8'.*None",
    ):
        export_saved_model(model, tmp_path / "export", weights="int8")


def test_a_model_without_vocabulary_is_refused(tmp_path):
    class ModelWithoutVocabulary:
        image_encoder = text_encoder = image_size = None

        @property
        def tokenizer(self):
            raise InputError("captions need a vocabulary")

    with pytest.raises(InputError, match="vocabulary"):
        export_saved_model(ModelWithoutVocabulary(), tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def unusual_images():
    """Returns images that decoders read differently or that a second resize changes."""
    rows, columns = np.indices((500, 700))
    stamp = (np.hypot(rows - 250, columns - 350) // 3 % 2 * 255).astype("uint8")
    stripes = (columns[:480, :640] % 5 < 2) * np.uint8(255)
    content = {name: file for name, (file, _) in readable_files().items()}
    names = ["JPEG, CMYK", "JPEG, orientation 6"]
    names += [f"PNG, gray of {bits} bits with a clear level" for bits in (2, 4)]
    names += ["PNG with alpha", "PNG, gray of 16 bits", "WebP, animated"]
    files = {name: content[name] for name in names}
    files["plain CMYK"] = plain_cmyk_jpeg(source())[0]
    files["stamp"] = encoded(Image.fromarray(stamp).convert("1"), "PNG")
    files["stripes"] = encoded(Image.fromarray(stripes), "PNG")
    files["large JPEG"] = encoded(source().resize((1500, 1100)), "JPEG")
    return files


@pytest.mark.release
def test_all_exports_have_similar_embeddings_of_a_file(tmp_path):
    files = unusual_images()
    (tmp_path / "files").mkdir()
    paths = []
    for number, file in enumerate(files.values()):
        paths.append(tmp_path / "files" / f"{number:02}.png")
        paths[-1].write_bytes(file)
    # With random weights, a difference of one gray level would change embeddings a lot.
    shipped = pathlib.Path(__file__).parents[2] / "saved_models" / "align_small_en"
    model = ALIGN.from_preset(str(shipped))
    export_saved_model(model, tmp_path / "export")
    expected = model.encode_images([str(path) for path in paths])

    def check(name, actual, min_cosine):
        cosines = np.sum(np.float32(actual) * expected, axis=1)
        worst = int(np.argmin(cosines))
        assert cosines[worst] > min_cosine, (name, list(files)[worst], cosines[worst])

    check("SavedModel", load_model(tmp_path / "export").encode_images(paths), 0.9999)
    # Resized images of Pillow and TensorFlow differ by at most one gray level. The
    # LiteRT image tower computes in 8 bits, which changes the embeddings of all images.
    for name, folder, min_cosine in (
        ("SavedModel", tmp_path / "export", 0.998),
        ("LiteRT", shipped, 0.98),
    ):
        searcher = load_model(folder)
        squares = [read_query_image(path, searcher.image_transform) for path in paths]
        embeddings = searcher.encode_resized(squares)
        check(f"search with {name}", embeddings, min_cosine)
        index_folder = tmp_path / f"index of {name}"
        index = Index.build(index_folder, [tmp_path / "files"], str(folder))
        assert len(index) == len(paths), index.changes
        stored_files = index.store.stored_files()
        images = [
            index.store.image(stored_files[os.fsencode(path)].id) for path in paths
        ]
        vectors = [index.store.vector(image["row"]) for image in images]
        np.testing.assert_allclose(vectors, embeddings, atol=1e-5)
