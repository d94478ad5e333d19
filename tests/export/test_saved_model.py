import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras.export import export_saved_model
from align_keras.models.align import ALIGN
from align_keras.text.vocabulary import SPECIAL_TOKENS
from align_keras.utils.errors import InputError

LETTERS = "abcdefghijklmnopqrstuvwxyzσ漢"
VOCABULARY = [*SPECIAL_TOKENS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
CAPTIONS = [
    "a red bicycle",
    "TITI I İ ΣΑΣ",
    "Crème [MASK] 漢字 \u200b",
    "",
    "x" * 10_000,
    "👩\u200d🚀",
]

# Runs where neither Keras nor this package can be imported, and under a locale in
# which ICU lowers "I" to "ı".
RELOAD = """
import importlib.util, pathlib, sys
for name in ("keras", "keras_hub", "tf_keras", "align_keras"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
# `import tensorflow_text` would import Keras; its graph operations don't need it.
tf_text = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent
for library in sorted(tf_text.glob("python/ops/*.so")):
    tf.load_op_library(str(library))
folder = pathlib.Path(sys.argv[1])
model = tf.saved_model.load(str(folder / "export"))
inputs = np.load(folder / "inputs.npz", allow_pickle=True)
arguments = {
    "encode_image": ("image_bytes", inputs["pictures"]),
    "encode_text": ("captions", inputs["captions"]),
    "serving_default": ("captions", inputs["captions"]),
}
outputs = {}
for name, (argument, values) in arguments.items():
    signature = model.signatures[name]
    for label, count in (("", len(values)), ("_one", 1), ("_none", 0)):
        batch = tf.constant(list(values[:count]), tf.string)
        result = signature(**{argument: batch})
        assert len(result) == 1, result
        for key, embedding in result.items():
            outputs[f"{name}/{key}{label}"] = embedding.numpy()
for key, values in model.tokenize(tf.constant(list(inputs["captions"]))).items():
    outputs[f"tokenize/{key}"] = values.numpy()
np.savez(folder / "outputs.npz", **outputs)
"""


def pictures():
    """One picture a format, of different sizes and modes."""
    source = np.random.default_rng(0)
    result = []
    for format, mode, size in (
        ("PNG", "RGBA", (50, 30)),
        ("PNG", "L", (9, 70)),
        ("JPEG", "RGB", (120, 90)),
        ("GIF", "P", (40, 40)),
        ("BMP", "RGB", (33, 64)),
    ):
        # Each of another colour and texture.
        colour = source.integers(0, 256, 4)
        noise = source.integers(-90, 90, (size[1], size[0], 4))
        pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode).save(
            buffer, format
        )
        result.append(buffer.getvalue())
    return result


@pytest.fixture(scope="module")
def model():
    model = ALIGN.from_preset(
        "align_nano",
        vocabulary=VOCABULARY,
        vocabulary_size=len(VOCABULARY),
        sequence_length=12,
    )
    # No weight keeps its initial value, batch normalisation's statistics included,
    # so that one that isn't stored shows.
    source = np.random.default_rng(1)
    for encoder in (model.image_encoder, model.text_encoder):
        for variable in encoder.variables:
            if "float" in variable.dtype:
                value = variable.numpy() * source.uniform(0.5, 1.5, variable.shape)
                if "variance" in variable.path:
                    value *= 0.1  # Or the signal fades away in untrained layers.
                elif value.ndim == 1:
                    value += source.normal(0, 0.02, variable.shape)
                variable.assign(value)
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    export_saved_model(model, folder / "export")
    return folder


@pytest.fixture(scope="module")
def outputs(folder):
    """What a fresh process without this package computes."""
    np.savez(
        folder / "inputs.npz",
        pictures=np.array(pictures(), object),
        captions=np.array([caption.encode() for caption in CAPTIONS], object),
    )
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }
    result = subprocess.run(
        [sys.executable, "-I", "-c", RELOAD, str(folder)],
        env={**environment, "LC_ALL": "tr_TR.UTF-8"},
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stderr[-1000:]
    return np.load(folder / "outputs.npz")


# Keras and the export run the same float32 kernels, but TensorFlow fuses and folds
# some of them in a graph of its own (convolution with batch normalisation), each
# with another rounding: 1e-7 relative an operation, some hundred operations deep; 3e-7
# was measured. A wrong weight or token shows at 1e-3 and above.
TOLERANCE = 1e-5


def test_images_in_a_fresh_process(model, outputs):
    expected = model.encode_images(pictures())
    embedding = outputs["encode_image/image_embedding"]
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)
    # The pictures differ by more than that, so that the comparison says something.
    assert np.abs(embedding[0] - embedding[1]).max() > 1e-2


@pytest.mark.parametrize("signature", ["encode_text", "serving_default"])
def test_texts_in_a_fresh_process(model, outputs, signature):
    expected = model.encode_texts(CAPTIONS)
    embedding = outputs[f"{signature}/text_embedding"]
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)
    assert np.abs(embedding[0] - embedding[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["image", "text"])
def test_batches_of_any_size(model, outputs, name):
    key = f"encode_{name}/{name}_embedding"
    width = model.image_encoder.output_shape[-1]
    np.testing.assert_allclose(np.linalg.norm(outputs[key], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        outputs[key + "_one"], outputs[key][:1], rtol=0, atol=TOLERANCE
    )
    assert outputs[key + "_none"].shape == (0, width)


def test_tokens_within_the_graph(model, outputs):
    for name, values in model.tokenizer(CAPTIONS).items():
        np.testing.assert_array_equal(outputs[f"tokenize/{name}"], values)


def test_variables_are_stored_once(model, folder):
    parameters = sum(
        int(np.prod(variable.shape))
        for encoder in (model.image_encoder, model.text_encoder)
        for variable in encoder.variables
    )
    stored = sum(
        file.stat().st_size for file in (folder / "export" / "variables").iterdir()
    )
    assert 4 * parameters <= stored < 1.05 * 4 * parameters + 50_000


def test_description(model, folder):
    description = json.loads((folder / "export" / "signatures.json").read_text())
    signatures = tf.saved_model.load(str(folder / "export")).signatures
    assert set(description) == set(signatures)
    for name, signature in signatures.items():
        _, inputs = signature.structured_input_signature
        for side, specs in (
            ("inputs", inputs),
            ("outputs", signature.structured_outputs),
        ):
            assert description[name][side] == {
                key: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
                for key, spec in specs.items()
            }
    assert description["encode_image"]["preprocessing"] == {"image_size": 64}
    assert description["encode_text"]["preprocessing"] == {
        "normalization": "bert_uncased",
        "sequence_length": 12,
        "vocabulary_size": len(VOCABULARY),
    }


def test_a_failed_export_leaves_the_old_one(model, tmp_path, monkeypatch):
    target = tmp_path / "export"
    target.mkdir()
    (target / "saved_model.pb").write_text("old")

    def full_disk(server, path, signatures):
        with open(os.path.join(path, "saved_model.pb"), "w") as file:
            file.write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_saved_model(model, target)
    assert [file.name for file in tmp_path.iterdir()] == ["export"]
    assert (target / "saved_model.pb").read_text() == "old"


def test_bad_arguments(model, tmp_path):
    with pytest.raises(InputError, match="received object without image_encoder"):
        export_saved_model(object(), tmp_path / "export")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="directory .* the file"):
        export_saved_model(model, file)
    assert file.read_text() == ""


def test_a_model_without_vocabulary(tmp_path):
    class Bare:
        image_encoder = text_encoder = image_size = None

        @property
        def tokenizer(self):
            raise InputError("captions need a vocabulary")

    with pytest.raises(InputError, match="vocabulary"):
        export_saved_model(Bare(), tmp_path / "export")
    assert list(tmp_path.iterdir()) == []
