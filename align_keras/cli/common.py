"""Option types and printed tables that several commands use."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from align_keras.utils.errors import InputError
from align_keras.utils.remote import is_url

if TYPE_CHECKING:
    from align_keras.embedders import Embedder

# Characters. Maximum width of the first column of a table before its text wraps.
_NAME_WIDTH = 36


def number(
    what: str, kind: type, least: float, most: float = sys.float_info.max
) -> Callable[[str], Any]:
    """Returns the `type` of an option that takes a number in [least, most]."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {what}, received {text!r}")
        return value

    return read


AT_LEAST_ONE = number("an integer >= 1", int, 1)


def on_disk(name: str, path: str | None, where: str = "") -> None:
    """Raises for an address where a command can't work in a copy of what is there."""
    if path is not None and is_url(path):
        raise InputError(
            f"{name} must be on a disk{where}, received {path}; name a local path, "
            "or mount the remote folder and name its place."
        )


def nested_commands(
    parser: argparse.ArgumentParser, metavar: str, title: str
) -> Callable[[str, str], argparse.ArgumentParser]:
    """Returns what adds a nested command by its name and help; `parser` takes its
    options too, whose values it keeps where they aren't given again.
    """
    commands = parser.add_subparsers(
        dest="nested", metavar=metavar, title=title, prog=parser.prog
    )
    return lambda name, help: commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        argument_default=argparse.SUPPRESS,
    )


def plain(text: object) -> Any:
    """A `rich` text without markup and without a terminal's control characters."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else " " for c in str(text)))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object] | None],
    left: Collection[str] | None = None,
) -> None:
    """Prints a table to stdout; the columns in `left`, or the first one, hold text, the
    others numbers; a row of None is a line.
    """
    from rich.console import Console
    from rich.table import Table

    # A title of the table itself would wrap, and the title may hold a path.
    print(plain(title).plain)
    table, rows = Table(), list(rows)
    left = columns[:1] if left is None else left
    # Names stay whole in 80 columns; the headings of the numbers are folded.
    widest = max((len(str(row[0])) for row in rows if row), default=0)
    for place, name in enumerate(columns):
        table.add_column(
            plain(name),
            justify="left" if name in left else "right",
            overflow="fold",
            no_wrap=name in ("path", "id"),
            min_width=None if place else min(widest, _NAME_WIDTH),
        )
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*map(plain, row))
    Console().print(table)


def print_json(value: Any) -> None:
    """Prints a value as JSON, with null in place of NaN and infinities."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    print(text)


def _finite(value: Any) -> Any:
    """Returns the value with None in place of NaN and infinities."""
    if isinstance(value, dict):
        return {str(key): _finite(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(element) for element in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def model_to_open(arguments: argparse.Namespace) -> "str | Embedder | None":
    """Returns the model of `--model` and `--runtime`.

    Returns:
        The name, if no runtime is given, or the opened model, or None if no model is
        given.

    Raises:
        InputError: if `--runtime` comes without `--model`.
    """
    if arguments.runtime is None:
        return arguments.model
    if arguments.model is None:
        raise InputError(
            f"runtime must come with `model`. Received: {arguments.runtime!r} alone. "
            "Name the model too."
        )
    from align_keras.embedders import load_model

    return load_model(arguments.model, arguments.runtime)
