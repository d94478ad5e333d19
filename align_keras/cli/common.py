"""Option types, checks and output that several commands share."""

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from align_keras.embedders.locations import RUNTIME_HELP
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.embedders import Embedder

# Characters. Maximum width of the first column of a table before its text wraps.
_NAME_WIDTH = 36


class HelpFormatter(argparse.HelpFormatter):
    """Formatter of help texts that breaks lines at spaces and never at hyphens."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrap(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = _wrap(text, width - len(indent))
        return "\n".join(f"{indent}{line}" for line in lines)


class RawHelpFormatter(HelpFormatter):
    """Formatter that keeps the line breaks of the description and of the epilog."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(f"{indent}{line}" for line in text.splitlines(keepends=True))


def _wrap(text: str, width: int) -> list[str]:
    words = " ".join(text.split())
    return textwrap.wrap(words, width, break_on_hyphens=False)


def number_type(
    rule: str, kind: type, minimum: float, maximum: float = sys.float_info.max
) -> Callable[[str], Any]:
    """Returns the argparse `type` of an option that takes a number in a range.

    Args:
        rule: the range in words, such as "an integer >= 1". The error message
            quotes it after "must be".
        kind: `int` or `float`.
        minimum: smallest valid value.
        maximum: largest valid value.
    """

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"must be {rule}. Received: {text!r}.")
        return value

    return read


AT_LEAST_ONE = number_type("an integer >= 1", int, 1)


def add_index(parser: argparse._ActionsContainer) -> None:
    """Adds the option `--index` of a command that writes or reads an index."""
    parser.add_argument(
        "--index",
        metavar="INDEX",
        help="folder of the index, or a PostgreSQL database with pgvector, "
        "postgresql://user@host/database (default: $ALIGN_KERAS_INDEX, else "
        "~/.local/share/align_keras/index)",
    )


def add_moved_model(parser: argparse.ArgumentParser) -> None:
    """Adds `--model` and `--runtime` of a command that reads an index."""
    parser.add_argument(
        "--model",
        metavar="M",
        help="new location of the model that built the index, if it was moved",
    )
    parser.add_argument("--runtime", metavar="R", help=RUNTIME_HELP)


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that describe the table of `--pairs`."""
    parser.add_argument(
        "--image-column", metavar="C", help="column of image paths in --pairs"
    )
    parser.add_argument(
        "--caption-column", metavar="C", help="column of captions in --pairs"
    )
    parser.add_argument(
        "--encoding", metavar="E", help="text encoding of --pairs (default: utf-8)"
    )


def check_local_path(name: str, path: str | None, condition: str = "") -> None:
    """Raises `InputError` if the path is a remote address.

    The condition follows "a local path" in the message.
    """
    if path is not None and is_url(path):
        raise InputError(
            f"`{name}` must be a local path{condition}. Received: {name}={path}. Use a "
            "local path, or mount the remote folder and use its mount point."
        )


def refuse_empty(arguments: argparse.Namespace, names: tuple[str, ...]) -> None:
    """Raises InputError if an option has an empty value.

    The command would otherwise ignore the option, for example if a variable of a shell
    script is not set.
    """
    for name in names:
        if getattr(arguments, name) == "":
            raise InputError(
                f"`{name}` must not be empty. Received: {name}=''. Enter a value, or "
                f"leave `{name}` out."
            )


def name_addresses(text: object, arguments: argparse.Namespace) -> str:
    """Returns a message with addresses in place of the paths of their local copies.

    Args:
        text: message or path.
        arguments: arguments of the command.
    """
    message = str(text)
    for path, address in arguments.addresses.items():
        message = message.replace(path, address)
    return message


def add_nested_commands(
    parser: argparse.ArgumentParser, metavar: str, title: str
) -> Callable[[str, str], argparse.ArgumentParser]:
    """Prepares a command for nested commands.

    Options are valid before and after the name of the nested command. A nested command
    sets no defaults, which would overwrite the values of options before its name.

    Args:
        parser: parser of the command.
        metavar: placeholder of the nested command in the usage line.
        title: heading of the nested commands in the help.

    Returns:
        Function that takes the name and the help of a nested command, adds the command,
        and returns its parser.
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


def without_control_characters(text: object) -> str:
    """Returns the text with spaces instead of control characters.

    A caption or path therefore cannot control the terminal.
    """
    return "".join(c if c.isprintable() else " " for c in str(text))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object] | None],
    text_columns: Collection[str] | None = None,
) -> None:
    """Prints a table to stdout.

    Args:
        title: printed above the table.
        columns: names of the columns.
        rows: one sequence of cells per row, or None for a horizontal line.
        text_columns: columns of text, which are aligned to the left. All other columns
            contain numbers, which are aligned to the right. Defaults to the first
            column.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # The title is printed separately, because `rich` wraps the title of a table and the
    # title may contain a path.
    print(without_control_characters(title))
    table, rows = Table(), list(rows)
    text_columns = columns[:1] if text_columns is None else text_columns
    # In a terminal of 80 columns the headings of the numbers wrap, so that the names in
    # the first column do not.
    longest_name = max((len(str(row[0])) for row in rows if row), default=0)
    for position, name in enumerate(columns):
        table.add_column(
            Text(without_control_characters(name)),
            justify="left" if name in text_columns else "right",
            overflow="fold",
            no_wrap=name in ("path", "id"),
            min_width=None if position else min(longest_name, _NAME_WIDTH),
        )
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*(Text(without_control_characters(cell)) for cell in row))
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


def add_dimensions(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--dimensions` to the parser of a command with `--model`."""
    parser.add_argument(
        "--dimensions",
        type=int,
        metavar="D",
        help="use only the first D components of the embeddings, scaled to unit "
        "length. The index is smaller. Models trained with `task.loss.matryoshka` lose "
        "little of their recall. Use it with --model.",
    )


def read_model_options(arguments: argparse.Namespace) -> "str | Embedder | None":
    """Returns the model that `--model` and `--runtime` choose.

    Returns:
        The opened model if `--runtime` or `--dimensions` is set. Otherwise the value of
        `--model`, which may be None.

    Raises:
        InputError: if `--runtime` or `--dimensions` is set without `--model`.
    """
    runtime = arguments.runtime
    dimensions = getattr(arguments, "dimensions", None)
    if runtime is None and dimensions is None:
        return arguments.model
    if arguments.model is None:
        name = "dimensions" if runtime is None else "runtime"
        raise InputError(
            f"`{name}` must be used with `model`. Received: "
            f"{name}={getattr(arguments, name)!r} without a model. Set `model`."
        )
    from align_keras.embedders import load_model

    return load_model(arguments.model, runtime or "auto", dimensions)
