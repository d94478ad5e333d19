"""What a SavedModel's signatures take and give, as plain JSON."""

from align_keras.utils.image_limits import MAX_PIXELS

_FILES = (
    "JPEG, PNG, GIF (its first frame), BMP or WebP files, of at most "
    f"{MAX_PIXELS:,} pixels"
)
_UNIT = "of unit length"
_MEANINGS = {
    "image_bytes": _FILES,
    "images": "RGB pictures of one size, any height and width from 1 on",
    "captions": "UTF-8",
    "token_ids": "as the tokenizer gives them: [CLS] first, [SEP] last, then [PAD]; 1 "
    "to sequence_length of them",
    "padding_mask": "1 for a token, 0 for [PAD]",
    "class_names": "UTF-8",
    "templates": "UTF-8, each with {}, the place of the class name",
    "image_embedding": f"{_UNIT}, or zero where a file isn't valid",
    "text_embedding": _UNIT,
    "valid": "whether a file is such a picture",
    "cosine": "of each picture and each caption",
    "scores": "softmax of cosine / temperature over the classes, of the mean over "
    "the templates",
}


def describe_signatures(served):
    """Returns inputs, outputs and preprocessing of a SavedModel.

    Args:
        served: `ServedModel`.

    Returns:
        dict of `signatures`, by name: `inputs` and `outputs`, name → dtype, shape
        (None for any number) and meaning; and of `preprocessing`, what the graph
        does by itself.
    """
    signatures = {}
    for name, function in sorted(served.functions.items()):
        concrete = function.get_concrete_function()
        _, inputs = concrete.structured_input_signature
        if not inputs:  # As positions.
            inputs = {
                spec.name: spec for spec in concrete.structured_input_signature[0]
            }
        signatures[name] = {
            "inputs": _described(inputs),
            "outputs": _described(concrete.structured_outputs),
        }
    return {
        "signatures": signatures,
        "preprocessing": {
            # TensorFlow wraps a module's dicts; Python 3.13 writes no such as JSON.
            name: dict(steps)
            for name, steps in served.preprocessing.items()
        },
    }


def _described(specs):
    return {
        name: {
            "dtype": spec.dtype.name,
            "shape": spec.shape.as_list(),
            "meaning": _MEANINGS[name],
        }
        for name, spec in specs.items()
    }
