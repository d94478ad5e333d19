"""The one exception that a user's mistake raises, and packages that aren't there."""

import contextlib
from collections.abc import Iterator
from typing import Any

from align_keras.utils.addresses import redacted


class InputError(ValueError):
    """A mistake in what the user gave: an argument, a file, a configuration.

    One line names the argument, the rule, what was received and the remedy. The command
    line prints it and exits with code 1; in Python it is a `ValueError`. Passwords of
    addresses are hidden in it.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(
            *(redacted(one) if isinstance(one, str) else one for one in arguments)
        )


@contextlib.contextmanager
def needs(extra: str, sentence: str, otherwise: str = "") -> Iterator[None]:
    """Says which extra to install when an import within it fails: `sentence` goes on
    "which isn't installed"; `otherwise` is another way out, such as ", or leave it
    out".
    """
    try:
        yield
    except ImportError:
        raise InputError(
            f"{sentence}, which isn't installed; run "
            f'`pip install "align-keras[{extra}]"`{otherwise}.'
        ) from None
