"""Exceptions for mistakes of the user and unusable images, and checks for extras."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any


class InputError(ValueError):
    """Mistake of the user in an argument, a file or a configuration.

    The message has one line with the argument, the rule, the received value and the
    remedy. The command line prints it and exits with code 1. In Python, it is a
    `ValueError`.

    Example:

    >>> import align_keras
    >>> try:
    ...     align_keras.load_model("align_smal")
    ... except InputError as error:
    ...     print(str(error)[:30])
    `model` must be align_small_en
    """


class ImageError(ValueError):
    """Error for an image that cannot be used.

    Attributes:
        reason: drop reason under which a `DropCounter` counts the image.
        detail: the problem.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.reason, self.detail)


class RefusedRedirectError(Exception):
    """Error for a redirect to an address that must not be read."""


class MissingExtraError(InputError, ImportError):
    """A package of an extra is needed, but it is not installed.

    Args:
        sentence: start of the first sentence, such as "`watch` needs watchfiles". The
            sentence continues with ", which isn't installed."
        extra: extra of align-keras that installs the missing package.
        otherwise: alternative to the installation at the end of the second sentence,
            such as ", or omit `watch`".

    Example:

    >>> print(MissingExtraError("`watch` needs watchfiles", "watch"))
    `watch` needs watchfiles, which isn't installed. Run `pip install
    "align-keras[watch]"`.
    """

    def __init__(self, sentence: str, extra: str, otherwise: str = "") -> None:
        super().__init__(
            f"{sentence}, which isn't installed. Run "
            f'`pip install "align-keras[{extra}]"`{otherwise}.'
        )
        self.extra = extra
        # Pickle calls the class with these arguments.
        self._arguments = (sentence, extra, otherwise)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


@contextlib.contextmanager
def needs(extra: str, sentence: str, otherwise: str = "") -> Iterator[None]:
    """Raises `MissingExtraError` if an import in the block fails.

    The arguments are those of `MissingExtraError`.
    """
    try:
        yield
    except ImportError:
        raise MissingExtraError(sentence, extra, otherwise) from None


# Extra with the packages of training, and the modules of these packages.
TENSORFLOW_EXTRA = "tensorflow"
TENSORFLOW_MODULES = (
    "tensorflow",
    "keras",
    "keras_hub",
    "tensorflow_datasets",
    "absl",
    "ml_dtypes",
    "pydantic",
    "safetensors",
)


def has_tensorflow() -> bool:
    """Returns True if TensorFlow is installed. Does not import it."""
    return importlib.util.find_spec("tensorflow") is not None


def check_tensorflow(subject: str, otherwise: str = "") -> None:
    """Raises `MissingExtraError` if TensorFlow is not installed.

    Args:
        subject: subject of the message, such as "The format litert". It continues with
            " needs TensorFlow".
        otherwise: as in `MissingExtraError`.
    """
    if not has_tensorflow():
        raise missing_module("tensorflow", subject, otherwise)


@contextlib.contextmanager
def needs_tensorflow(subject: str) -> Iterator[None]:
    """Raises `MissingExtraError` if an import of the training packages fails.

    An inner block of the same kind has no effect, so that the message is about the name
    or the function that the user has chosen.

    Args:
        subject: as in `check_tensorflow`.
    """
    try:
        yield
    except MissingExtraError as error:
        if error.extra != TENSORFLOW_EXTRA:
            raise
        raise missing_module("tensorflow", subject) from None
    except ModuleNotFoundError as error:
        if error.name not in TENSORFLOW_MODULES:
            raise
        raise missing_module(error.name, subject) from None


def missing_module(module: str, subject: str, otherwise: str = "") -> MissingExtraError:
    """Returns the error for a module of `TENSORFLOW_MODULES` that is not installed."""
    package = module if has_tensorflow() else "TensorFlow"
    return MissingExtraError(f"{subject} needs {package}", TENSORFLOW_EXTRA, otherwise)
