"""The options that start a run's towers from public weights."""

import pathlib

_IMAGE = "task.model.image_encoder"
_TEXT = "task.model.text_encoder"
_LITE = "efficientnet-lite"
# What MiniLM was trained as.
_MINILM = {
    "variant": "minilm_l6",
    "activation": "gelu",
    "pooling": "mean",
    "max_sequence_length": 512,
}


def add_arguments(parser):
    """Adds `--image-weights` and `--text-weights` to a command's parser."""
    parser.add_argument(
        "--image-weights",
        metavar="W",
        help="start the image tower from efficientnet-lite0 to -lite4 (which set the "
        "variant too), imagenet, an .h5 file of keras.applications, or the folder of "
        "an ALIGN",
    )
    parser.add_argument(
        "--text-weights",
        metavar="W",
        help="start the text tower and its vocabulary from minilm-l6 (which sets the "
        "sizes too), a BERT's folder, a TF Model Garden checkpoint, or the folder of "
        "an ALIGN",
    )


def overrides(arguments):
    """Returns the overrides that the two options stand for, a dict."""
    values = {}
    if arguments.image_weights is not None:
        values[f"{_IMAGE}.weights"] = _absolute(arguments.image_weights)
        if arguments.image_weights.startswith(_LITE):
            values[f"{_IMAGE}.variant"] = arguments.image_weights.replace("-", "_")
    if arguments.text_weights is not None:
        values[f"{_TEXT}.weights"] = _absolute(arguments.text_weights)
        if arguments.text_weights == "minilm-l6":
            values |= {f"{_TEXT}.{name}": value for name, value in _MINILM.items()}
    return values


def _absolute(weights):
    """A path holds from any folder; names stay as they are."""
    path = pathlib.Path(weights)
    is_path = path.exists() or pathlib.Path(f"{weights}.index").exists()
    return str(path.resolve()) if is_path else weights
