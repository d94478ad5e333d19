"""`InputError`, the exception for mistakes of the user, and a check for extras."""

import contextlib
from collections.abc import Iterator
from typing import Any

from align_keras.utils.addresses import redacted


class InputError(ValueError):
    """Mistake of the user in an argument, a file or a configuration.

    The message has one line with the argument, the rule, the received value and the
    remedy. The command line prints it and exits with code 1. In Python, it is a
    `ValueError`. Passwords in addresses are replaced by `***`.

    Example:

    >>> import align_keras
    >>> try:
    ...     align_keras.load_model("align_smal")
    ... except InputError as error:
    ...     print(str(error)[:30])
    `model` must be align_small_en
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(
            *(
                redacted(argument) if isinstance(argument, str) else argument
                for argument in arguments
            )
        )


@contextlib.contextmanager
def needs(extra: str, sentence: str, otherwise: str = "") -> Iterator[None]:
    """Raises `InputError` with the name of an extra if an import in the block fails.

    Args:
        extra: str, extra of align-keras that installs the missing package.
        sentence: str, start of the first sentence, such as "`watch` needs watchfiles".
            The sentence continues with ", which isn't installed."
        otherwise: str, alternative to the installation at the end of the second
            sentence, such as ", or omit `watch`".
    """
    try:
        yield
    except ImportError:
        raise InputError(
            f"{sentence}, which isn't installed. Run "
            f'`pip install "align-keras[{extra}]"`{otherwise}.'
        ) from None
