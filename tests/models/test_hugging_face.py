"""Tests of the conversion of ALIGN from and to transformers.

`tests.helpers.recorded_oracles` contains recorded outputs of `transformers.AlignModel`
for a tiny model. Tests with other models need transformers.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

from align_keras.losses import contrastive_loss
from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.models.conversion.hugging_face import (
    align_links,
    to_hugging_face,
)
from align_keras.models.conversion.hugging_face_config import read_sizes
from align_keras.models.conversion.links import load_links
from align_keras.models.conversion.tensor_files import SafetensorsFolder
from align_keras.models.lora import adapted_layers
from align_keras.presets.hugging_face_processing import (
    read_image_processing,
    read_normalization,
    read_vocabulary,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json
from tests.helpers.align_folders import (
    PREPROCESSOR,
    random_pairs,
    tiny_align,
    write_align_folder,
)
from tests.helpers.mutated import check_folder
from tests.helpers.oracle_process import call_oracle, needs
from tests.helpers.recorded_oracles import recorded
from tests.helpers.small import VOCABULARY, small_align

needs_transformers = needs("torch", "transformers")

# Tolerances of float32 outputs compared with float64. In deep encoders, the error of
# single entries may exceed 1e-5, but only the direction of an embedding matters.
RELATIVE = 1e-5
COSINE = 0.99999


def assert_equal_embeddings(actual, expected):
    actual = np.asarray(actual, "float64")
    relative = np.abs(actual - expected).max() / np.abs(expected).max()
    cosines = (actual * expected).sum(1) / (
        np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    )
    assert relative <= RELATIVE or cosines.min() > COSINE, (relative, cosines.min())
    # The embeddings must differ, since equal vectors would pass the checks above.
    assert np.abs(expected - expected[:1]).max() > 1e-3


@pytest.fixture(scope="module")
def folder():
    return tiny_align()


def check_parity(model, inputs, expected):
    """Compares a model with the float64 outputs of `AlignModel`."""
    outputs = model(inputs, training=False)
    images, texts = outputs["image_embedding"], outputs["text_embedding"]
    assert_equal_embeddings(images, expected["image_embeds"])
    assert_equal_embeddings(texts, expected["text_embeds"])
    logits = images @ tf.transpose(texts) / model.temperature
    assert_equal_embeddings(logits, expected["logits_per_image"])
    loss = contrastive_loss(images, texts, model.temperature, reduction="mean")
    assert float(loss) == pytest.approx(float(expected["loss"]), rel=RELATIVE)


@pytest.mark.parametrize("number", [0, 1], ids=["even sides", "odd sides"])
def test_outputs_equal_transformers(number, folder):
    check_parity(ALIGN.from_preset(folder), *recorded("align")[number])


# Heights and widths. Some are even at all strides, some are odd at most strides.
SIDES = {"narrow": [(64, 64), (97, 75)], "b0": [(97, 75)], "b7": [(96, 96), (97, 75)]}


@pytest.mark.parametrize(
    "size",
    [
        pytest.param("narrow", marks=pytest.mark.ci),
        pytest.param("b0", marks=pytest.mark.ci),
        pytest.param("b7", marks=pytest.mark.release),
    ],
)
@needs_transformers
def test_outputs_of_wider_encoders_equal_transformers(size, tmp_path):
    model = ALIGN.from_preset(write_align_folder(tmp_path, size))
    for sides in SIDES[size]:
        inputs = random_pairs(*sides)
        check_parity(
            model, inputs, call_oracle("hugging_face", "outputs", tmp_path, **inputs)
        )


@pytest.mark.ci
@needs_transformers
def test_gradients_equal_transformers(folder):
    inputs = random_pairs(64, 49, count=4, vocabulary_size=len(VOCABULARY))
    parameters = call_oracle("hugging_face", "gradients", folder, **inputs)
    model = ALIGN.from_preset(folder)
    image, bert = model.image_encoder, model.text_encoder.backbone
    attention = bert.transformer_layers[0]._self_attention_layer
    variables = {
        "vision_model.embeddings.convolution.weight": image.get_layer("stem").kernel,
        "vision_model.encoder.blocks.3.depthwise_conv.depthwise_norm.weight": (
            image.blocks[3].depthwise_norm.gamma
        ),
        "vision_model.encoder.blocks.5.squeeze_excite.expand.bias": (
            image.blocks[5].excite.bias
        ),
        "text_model.embeddings.position_embeddings.weight": (
            bert.position_embedding.position_embeddings
        ),
        "text_model.encoder.layer.0.attention.self.value.bias": (
            attention.value_dense.bias
        ),
        "text_projection.weight": model.text_encoder.get_layer("projection").kernel,
        "temperature": model.temperature_layer.log_temperature,
    }
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=False)
        loss = contrastive_loss(
            outputs["image_embedding"],
            outputs["text_embedding"],
            model.temperature,
            reduction="mean",
        )
    gradients = tape.gradient(loss, [v.value for v in variables.values()])
    for name, gradient in zip(variables, gradients, strict=True):
        expected = parameters[name]
        if expected.ndim == 4:
            expected = expected.transpose(2, 3, 1, 0)
        elif name == "text_projection.weight":
            expected = expected.T
        elif name == "temperature":  # d/d log t = t · d/dt
            expected = expected * float(model.temperature)
        expected = expected.reshape(gradient.shape)
        # The tolerance allows for float32 in both encoders and their backward passes.
        scale = np.abs(expected).max()
        assert scale > 1e-8, name
        np.testing.assert_allclose(gradient / scale, expected / scale, atol=1e-4)


def test_exporting_a_converted_model_restores_all_tensors(folder, tmp_path):
    to_hugging_face(ALIGN.from_preset(folder), tmp_path / "back")
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert set(before) == set(after)
    for name, value in before.items():
        # The counters aren't used.
        if name.endswith("num_batches_tracked"):
            continue
        # Only exp(log(t)) of the temperature is rounded.
        np.testing.assert_allclose(after[name], value, rtol=1e-6, atol=0)
        assert after[name].dtype == value.dtype


@pytest.mark.ci
def test_an_exported_model_has_merged_lora_factors(folder, tmp_path):
    model = ALIGN.from_preset(folder, training="lora", rank=1)
    random = np.random.default_rng(0)
    kernels = {}
    for layer in adapted_layers(model):
        layer.lora_kernel_b.assign(random.normal(0, 0.1, layer.lora_kernel_b.shape))
        product = np.tensordot(layer.lora_kernel_a, layer.lora_kernel_b, axes=1)
        kernels[layer._kernel.path] = layer._kernel.numpy() + product
    to_hugging_face(model, tmp_path / "merged")
    weights = {w.path: w for w in ALIGN.from_preset(tmp_path / "merged").weights}
    assert len(kernels) > 10
    for path, kernel in kernels.items():
        np.testing.assert_allclose(weights[path], kernel, rtol=0, atol=1e-6)


@pytest.mark.ci
@needs_transformers
def test_transformers_opens_an_exported_model(tmp_path):
    model = ALIGN.from_encoders(
        *small_encoders_of_hugging_face(),
        vocabulary=VOCABULARY,
        initial_temperature=0.3,
    )
    to_hugging_face(model, tmp_path / "align")
    # All sides are even, since odd sides are padded differently.
    inputs = random_pairs(64, 32, vocabulary_size=len(VOCABULARY), length=8)
    expected = call_oracle("hugging_face", "outputs", tmp_path / "align", **inputs)
    outputs = model(inputs, training=False)
    # float32 is compared with float64.
    np.testing.assert_allclose(
        outputs["image_embedding"], expected["image_embeds"], atol=1e-5
    )
    np.testing.assert_allclose(
        outputs["text_embedding"], expected["text_embeds"], atol=1e-5
    )
    texts = ["red Cat", "a"]
    arguments = (tmp_path / "align", texts)
    expected = call_oracle(
        "hugging_face", "processed_captions", *arguments, max_length=8
    )
    tokens = model.tokenizer(texts)
    for name in ("token_ids", "padding_mask"):
        np.testing.assert_array_equal(tokens[name], expected[name])


def small_encoders_of_hugging_face():
    image_encoder = ImageEncoder(
        width_coefficient=0.5, depth_coefficient=0.3, image_size=32
    )
    text_encoder = TextEncoder(
        vocabulary_size=len(VOCABULARY),
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=160,
        sequence_length=8,
        activation="gelu_approximate",
    )
    return image_encoder, text_encoder


@pytest.mark.ci
@needs_transformers
def test_a_folder_in_half_precision_opens_in_any_dtype(tmp_path):
    write_align_folder(tmp_path, "tiny", dtype="bfloat16")
    model = ALIGN.from_preset(tmp_path)
    tensors = call_oracle("hugging_face", "tensors", tmp_path)
    expected = tensors["text_projection.weight"].T
    projection = model.text_encoder.get_layer("projection")
    np.testing.assert_array_equal(projection.kernel, expected)
    half = ALIGN.from_preset(tmp_path, dtype="mixed_bfloat16")
    assert half.image_encoder.dtype_policy.name == "mixed_bfloat16"
    assert half(random_pairs(64, 64))["image_embedding"].dtype == "float32"


def test_hub_models_are_opened_from_the_cache(folder, tmp_path, monkeypatch):
    revision = "0" * 40
    model_cache = tmp_path / "models--kakaobrain--align-base"
    (model_cache / "refs").mkdir(parents=True)
    (model_cache / "refs" / "main").write_text(revision)
    (model_cache / "snapshots").mkdir()
    (model_cache / "snapshots" / revision).symlink_to(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = ALIGN.from_preset("hf://kakaobrain/align-base")
    assert model.image_size == 289
    assert model.vocabulary == VOCABULARY
    with pytest.raises(InputError, match="kakaobrain/nothing"):
        ALIGN.from_preset("hf://kakaobrain/nothing")


@pytest.mark.release
def test_opening_a_folder_needs_neither_torch_nor_transformers(folder):
    script = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from align_keras import ALIGN\n"
        "print(ALIGN.from_preset(sys.argv[1]).count_params())\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > 100_000


def changed_copy(folder, directory, change):
    """Copies the files of a folder, with tensors that `change` modifies in place."""
    directory.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (directory / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    return directory


def test_two_stages_of_equal_width_are_refused(folder, tmp_path):
    copy = changed_copy(folder, tmp_path / "narrow", lambda tensors: None)
    config = json.loads((copy / "config.json").read_text())
    # The stages of 16 and 24 filters both have 8 filters after scaling.
    config["vision_config"]["width_coefficient"] = 0.1
    config["projection_dim"] = 32
    (copy / "config.json").write_text(json.dumps(config))
    words = "vision_config.width_coefficient .*Received: 0.1"
    with pytest.raises(InputError, match=words):
        ALIGN.from_preset(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.pop("text_projection.bias"),
            r"1 missing: text_projection\.bias",
        ),
        (
            lambda t: t.update(more=np.zeros(3, "float32")),
            "1 not .*: more",
        ),
        (
            lambda t: t.update({"temperature": np.zeros(2, "float32")}),
            r"1 .*shape: temperature \(2,\) .*\(\)",
        ),
        (
            lambda t: t.update({"temperature": np.array(-1, "float32")}),
            "temperature .*finite",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(folder, tmp_path, change, words):
    broken = changed_copy(folder, tmp_path / "broken", change)
    with pytest.raises(InputError, match=words) as caught:
        ALIGN.from_preset(broken)
    assert "\n" not in str(caught.value)


def test_a_failed_load_changes_no_weight(folder, tmp_path):
    model = ALIGN.from_preset(folder)
    before = [w.numpy().copy() for w in model.weights]
    tensors = {
        name: value + 1
        for name, value in load_file(folder / "model.safetensors").items()
    }
    tensors["temperature"] = np.float32(np.nan)
    ignored = [name for name in tensors if name.endswith("num_batches_tracked")]
    with pytest.raises(InputError, match="temperature .*No weights"):
        load_links(align_links(model), tensors, "changed", ignored)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def edited_config(folder, directory, edit):
    directory.mkdir()
    for path in folder.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    config = json.loads((directory / "config.json").read_text())
    edit(config)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda c: c.update(model_type="clip"),
            "model_type .*'align'. Received: 'clip'",
        ),
        (
            lambda c: c.update(projection_dim=8),
            "widths 160 and 8",
        ),
        (
            lambda c: c["vision_config"].update(strides=[1] * 7),
            r"strides \[1, 2, 2, 2, 1, 2, 1\]. Received: strides \[1, 1",
        ),
        (lambda c: c["text_config"].update(hidden_act="relu"), "hidden_act must be"),
        (lambda c: c["text_config"].update(hidden_act=["gelu"]), "hidden_act must be"),
        (lambda c: c["text_config"].update(vocab_size=9), "word_embeddings.weight"),
        (
            lambda c: c["vision_config"].update(batch_norm_eps=-0.001),
            "vision_config.batch_norm_eps .* Received: -0.001",
        ),
        (
            lambda c: c["vision_config"].update(depth_coefficient=1e9),
            "depth_coefficient .*from 0.01 to 10. .*1000000000",
        ),
        (
            lambda c: c["text_config"].update(num_hidden_layers=10**7),
            "num_hidden_layers .*from 1 to 100",
        ),
        (lambda c: c["text_config"].update(num_hidden_layers=3), "missing"),
        (
            lambda c: c["text_config"].update(vocab_size=10**7),
            "at most .*Received: 160,485,752 parameters",
        ),
        (
            lambda c: c["text_config"].update(hidden_dropout_prob=float("nan")),
            "hidden_dropout_prob .*from 0 to 0.999. Received: nan",
        ),
    ],
)
def test_configurations_that_do_not_fit_are_refused(folder, tmp_path, edit, words):
    with pytest.raises(InputError, match=words) as caught:
        ALIGN.from_preset(edited_config(folder, tmp_path / "edited", edit))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"do_normalize": True, "image_std": [0.5, 0, 0.5]}, "deviation in gray"),
        ({"crop_size": 289_000, "size": 346_000}, "crop_size must be .* to 8192"),
        ({"crop_size": "289"}, "crop_size .*'289'"),
    ],
)
def test_invalid_preprocessing_settings_are_refused(folder, tmp_path, edit, words):
    copy = edited_config(folder, tmp_path / "edited", lambda config: None)
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({**PREPROCESSOR, **edit}))
    with pytest.raises(InputError, match=words) as caught:
        ALIGN.from_preset(copy)
    assert "preprocessor_config.json" in str(caught.value)


@pytest.mark.parametrize(
    "ids",
    [
        {token: number + (number > 3) for number, token in enumerate(VOCABULARY)},
        {token: min(number, 7) for number, token in enumerate(VOCABULARY)},
        {token: float(number) for number, token in enumerate(VOCABULARY)},
        {"[CLS]": [0]},
        ["[CLS]"],
    ],
    ids=["gap", "double", "fractions", "list", "no object"],
)
def test_token_ids_must_count_from_0_without_gaps(tmp_path, ids):
    content = json.dumps({"model": {"vocab": ids}})
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="gaps"):
        read_vocabulary(tmp_path)
    complete_ids = {token: number for number, token in enumerate(VOCABULARY)}
    content = json.dumps({"model": {"vocab": complete_ids}})
    (tmp_path / "tokenizer.json").write_text(content)
    assert read_vocabulary(tmp_path) == VOCABULARY


def test_do_lower_case_selects_the_normalization(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert read_normalization(tmp_path) == "bert_cased"


def test_shards_must_be_in_the_folder_of_their_index(tmp_path):
    save_file({"a": np.zeros(2, "float32")}, tmp_path / "secret.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(InputError, match="safetensors"):
        SafetensorsFolder(folder)


@pytest.mark.parametrize(
    "edit",
    [{"resample": 3}, {"do_center_crop": False}, {"crop_size": 346}, {"size": {}}],
)
def test_an_unsupported_resizing_is_refused(folder, tmp_path, edit):
    copy = edited_config(folder, tmp_path / "edited", lambda config: None)
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({**PREPROCESSOR, **edit}))
    with pytest.raises(InputError, match="must resize bilinearly"):
        ALIGN.from_preset(copy)


UNSUPPORTED = [
    ({"do_resize": False}, "do_resize False"),
    ({"size": {"shortest_edge": 346}}, "Received: .*size {'shortest_edge': 346}"),
    ({"crop_size": {"height": 289, "width": 300}}, "Received: .*'width': 300"),
    ({"do_pad": True}, "without padding.*do_pad True"),
    ({"do_sharpen": True}, "Received: 'do_sharpen' True"),
    ({"interpolation": "lanczos"}, "Received: 'interpolation' 'lanczos'"),
    ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type must be"),
]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("edit", "words"), UNSUPPORTED)
def test_unsupported_preprocessing_is_refused_in_either_file(
    tmp_path, edit, words, nested
):
    name = write_settings(tmp_path, {**PREPROCESSOR, **edit}, nested)
    with pytest.raises(InputError, match=words) as caught:
        read_image_processing(tmp_path)
    assert name in str(caught.value)


def write_settings(folder, settings, nested):
    """Writes the settings as transformers 5 (nested) or 4. Returns the file name."""
    name = "processor_config.json" if nested else "preprocessor_config.json"
    content = {"image_processor": settings} if nested else settings
    content = {**content, "processor_class": "AlignProcessor"}
    (folder / name).write_text(json.dumps(content))
    return name


IMAGENET = {
    "size": {"height": 77, "width": 77},
    "crop_size": {"height": 64, "width": 64},
    "rescale_factor": 1 / 255,
    "rescale_offset": False,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


@pytest.mark.parametrize("nested", [False, True])
def test_preprocessing_of_either_file_reaches_the_model(folder, tmp_path, nested):
    copy = edited_config(folder, tmp_path / "copy", lambda config: None)
    (copy / "preprocessor_config.json").unlink()
    write_settings(copy, {**PREPROCESSOR, **IMAGENET}, nested)
    if nested:
        (copy / "preprocessor_config.json").write_text("{}")
    else:
        # Transformers 4 writes this file without image settings.
        processor = '{"processor_class": "AlignProcessor"}'
        (copy / "processor_config.json").write_text(processor)
    encoder = ALIGN.from_preset(copy, load_weights=False).image_encoder
    assert encoder.image_size == 64
    np.testing.assert_allclose(encoder.pixel_mean, [123.675, 116.28, 103.53])
    np.testing.assert_allclose(encoder.pixel_deviation, [58.395, 57.12, 57.375])


def test_a_folder_without_preprocessing_is_refused(folder, tmp_path):
    copy = edited_config(folder, tmp_path / "copy", lambda config: None)
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="preprocessor_config.json"):
        ALIGN.from_preset(copy)


def test_files_that_disagree_are_refused(tmp_path):
    write_settings(tmp_path, PREPROCESSOR, nested=False)
    write_settings(tmp_path, PREPROCESSOR, nested=True)
    assert read_image_processing(tmp_path).image_size == 289
    write_settings(tmp_path, {**PREPROCESSOR, **IMAGENET}, nested=True)
    with pytest.raises(InputError, match="preprocessing"):
        read_image_processing(tmp_path)


@pytest.mark.parametrize("count", [60, pytest.param(4000, marks=pytest.mark.release)])
def test_damaged_folders_raise_a_one_line_error(folder, tmp_path, count):
    copy = edited_config(folder, tmp_path / "edited", lambda config: None)
    (copy / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    (copy / "tokenizer.json").write_text(json.dumps({"model": {"vocab": ids}}))
    (copy / "vocab.txt").unlink()

    def read():
        config = read_json(copy / "config.json")
        read_sizes(config, read_image_processing(copy), str(copy))
        for tensor in SafetensorsFolder(copy).values():
            np.asarray(tensor)
        read_vocabulary(copy)
        read_normalization(copy)

    names = sorted(path.name for path in copy.iterdir())
    read, refused = check_folder(copy, names, read, count)
    assert read and refused > count / 3


def test_a_truncated_or_missing_weights_file_is_refused(folder, tmp_path):
    broken = changed_copy(folder, tmp_path / "broken", lambda tensors: None)
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="safetensors"):
        ALIGN.from_preset(broken)
    path.unlink()
    with pytest.raises(InputError, match="model.safetensors"):
        ALIGN.from_preset(broken)


def test_models_that_transformers_does_not_support_are_refused(tmp_path):
    with pytest.raises(InputError, match="image_encoder.projection_dim"):
        to_hugging_face(small_align(), tmp_path / "align")
    odd = ImageEncoder(width_coefficient=0.5, depth_coefficient=0.3, image_size=40)
    model = ALIGN.from_encoders(
        odd, small_encoders_of_hugging_face()[1], vocabulary=VOCABULARY
    )
    with pytest.raises(InputError, match="image_encoder.padding"):
        to_hugging_face(model, tmp_path / "align")
    assert not (tmp_path / "align").exists()
