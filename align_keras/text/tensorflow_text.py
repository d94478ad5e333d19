"""TensorFlow Text, an optional package that tokenizes captions inside of graphs."""

import importlib

from align_keras.utils.errors import InputError


def check_tensorflow_text(subject: str) -> None:
    """Raises if tensorflow-text is missing, or if its operations don't load.

    Args:
        subject: subject of the message in the singular, such as "A SavedModel".

    Raises:
        InputError: with the reason, and with the command that installs the package.
    """
    import tensorflow

    try:
        importlib.import_module("tensorflow_text")
    except ImportError as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            f"{subject} needs tensorflow-text for the same minor version of "
            f"TensorFlow. Received: TensorFlow {tensorflow.__version__} ({reason}). "
            "Run `pip install tensorflow-text`, which also installs its version of "
            "TensorFlow. If there is no wheel for your system, as on Windows, use the "
            "formats litert and onnx."
        ) from error
