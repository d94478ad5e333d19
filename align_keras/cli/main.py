"""The `align-keras` command: runs a subcommand and prints its errors.

The module of a subcommand has the functions `add_arguments` and `run`, which returns
the exit code. Only the module of the chosen subcommand is imported. TensorFlow is
imported by `run`, so that help and usage errors appear at once.
"""

import argparse
import codecs
import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import align_keras
from align_keras.cli.common import HelpFormatter, check_local_path, name_addresses
from align_keras.utils.addresses import drop_queries, is_hub_name, is_url, without_query
from align_keras.utils.arguments import did_you_mean
from align_keras.utils.errors import InputError
from align_keras.utils.quiet import silence_tensorflow

COMMANDS = {
    "quickstart": "train, evaluate, export and search a small model in minutes",
    "corpus": "build a training corpus from web pages, archives and tables",
    "data": "write tables of public data sets for training and corpora",
    "train": "train or evaluate an experiment",
    "finetune": "fine-tune a trained model on your pairs",
    "plan": "estimate the memory, traffic and days of a training",
    "evaluate": "evaluate a model with one protocol of the paper, or with all of them",
    "export": "export a model for TensorFlow Serving, phones, browsers or ONNX Runtime",
    "index": "build or update the search index of image folders",
    "embed": "write embeddings of images or captions to Parquet or NumPy files",
    "serve": "serve a web page on this machine that searches an index",
    "search": "search images by text, by image, or by both",
    "tag": "give images the labels that fit them, or none of them",
    "mcp": "let agents search an index over the Model Context Protocol (MCP)",
    "push": "upload a model to the Hugging Face Hub",
    "convert": "convert an ALIGN model between Hugging Face and Keras formats",
}
# Arguments that may be remote addresses. A command works on a local copy of the
# address. It uploads the copy afterwards if it writes to the argument.
WRITE_ARGUMENTS = ("model_dir", "out", "to", "html", "cache", "results")
READ_ARGUMENTS = ("model", "index", "data_root")
# Commands that only read their arguments, including those in `WRITE_ARGUMENTS`.
READ_ONLY_COMMANDS = ("search", "serve", "mcp")
# Arguments that are texts. An address in a text is neither read nor written.
_TEXT_ARGUMENTS = ("text", "plus", "minus", "where")
_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*://"
# An address, which may follow the kind of a source as in `pairs:https://host/t.csv`.
_ADDRESS = re.compile(rf"(?P<start>(?:\w+[:=])?)(?P<address>{_SCHEME}.+)", re.DOTALL)
FAILURE = 1
# Exit code that shells report for a process that SIGINT has ended.
INTERRUPTED = 130
# Results of an interrupted command from which the next run continues.
RESUMABLE = {
    "quickstart": "the last checkpoint",
    "train": "the last checkpoint",
    "finetune": "the last checkpoint",
    "evaluate": "the stored embeddings and the finished trials",
    "corpus": "the finished tasks",
    "embed": "the finished shards",
    "index": "the stored embeddings",
    "push": "the uploaded files",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        argv: words of the command line after `align-keras`. Defaults to `sys.argv[1:]`.

    Returns:
        Exit code: 0, 1 after a failure, or 130 after an interrupt.

    Raises:
        SystemExit: with code 2 after a usage error, with code 0 after `--help` and
            `--version`.
    """
    open_streams()
    try:
        try:
            return run_command(list(sys.argv[1:] if argv is None else argv))
        except SystemExit:
            # `--help` and `--print-completion` have printed their text.
            sys.stdout.flush()
            raise
    except BrokenPipeError:
        # A reader such as `head` or `less` has closed the pipe. Without the null
        # device, Python would report the error again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE


def run_command(argv: list[str]) -> int:
    """Runs a subcommand and prints its error. Arguments and result are as in `main`."""
    arguments = parse_arguments(argv)
    silence_tensorflow()
    failure = FAILURE
    try:
        remove_queries(arguments)
        with contextlib.ExitStack() as stack:
            use_local_copies(arguments, stack)
            code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        failure = INTERRUPTED
        message = "Interrupted."
        if arguments.command in RESUMABLE:
            message += (
                " Run the same command again to continue from "
                f"{RESUMABLE[arguments.command]}."
            )
    except Exception as error:
        message = _message_of(error, arguments.options)
    message = drop_queries(name_addresses(message, arguments))
    print(f"align-keras {arguments.command}: error: {message}", file=sys.stderr)
    return failure


def _message_of(error: Exception, options: dict[str, str]) -> str:
    # A command that succeeds does not need this import.
    from align_keras.cli.error_messages import (
        describe_bug,
        describe_error,
        use_option_names,
    )

    message = describe_error(error)
    if isinstance(error, InputError):
        return use_option_names(str(message), options)
    return message or describe_bug(error)


def open_streams() -> None:
    """Prepares the standard streams for any text.

    Closed streams are connected to the null device. Characters outside the encoding of
    stdout and stderr are escaped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Otherwise the next open file would get the descriptor of the closed
            # stream, and output to the stream would go into this file.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "r" if number == 0 else "w"))
    codecs.register_error("align_keras_escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="align_keras_escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Escapes characters that a stream cannot encode, as JSON does (`\\u00e9`)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Args:
        argv: words of the command line after `align-keras`.

    Returns:
        Arguments of the command, with these additions:
        - `command`: str, name of the command.
        - `run`: function that runs the command.
        - `options`: dict from the name of an argument to its option.
        - `addresses`: empty dict, to which `use_local_copies` adds the address of each
          local copy.
    """
    parser = _Parser(
        prog="align-keras",
        description="ALIGN in Keras. Train a dual encoder on pairs of images and "
        "captions, evaluate it, export it and search images with it.",
        epilog="Run `align-keras COMMAND --help` for the options of a command.",
    )
    version = f"align-keras {align_keras.__version__}"
    parser.add_argument(
        "--version", action="version", version=version, help="show the version"
    )
    prints_completion = any(word.startswith("--print-completion") for word in argv[:1])
    completion_help = "print a completion script for bash, zsh or fish"
    if prints_completion:
        import shtab

        shtab.add_argument_to(parser, "--print-completion", completion_help)
    else:
        parser.add_argument("--print-completion", metavar="SHELL", help=completion_help)
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands"
    )
    chosen_command = next((word for word in argv if not word.startswith("-")), None)
    parser.check_options(argv[: argv.index(chosen_command)] if chosen_command else argv)
    # Only the help and the errors of the first word need the parsers of all commands,
    # which take as long to build as a query.
    names = argv[:1] if argv and argv[0] in COMMANDS else list(COMMANDS)
    for name in names:
        summary = COMMANDS[name]
        command = subparsers.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        if name == chosen_command or prints_completion:
            module = importlib.import_module(f"align_keras.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
        if name == chosen_command:
            start = argv.index(name) + 1
            argv = argv[:start] + command.check_options(argv[start:])
    arguments, unknown_words = parser.parse_known_args(argv)
    command = subparsers.choices[arguments.command]
    if unknown_words and unknown_words[0].startswith("-"):
        command.refuse_option(unknown_words[0], command.options())
    if unknown_words:
        command.error(f"unexpected arguments: {' '.join(unknown_words)}")
    arguments.options = command.option_names()
    arguments.addresses = {}
    return arguments


def remove_queries(arguments: argparse.Namespace) -> None:
    """Removes the query strings of addresses, so that they are not stored.

    Texts and conditions of a search do not change. The configuration removes the query
    strings of `--params_override`.

    Raises:
        InputError: if an address has a password.
    """
    unchanged = (*_TEXT_ARGUMENTS, "params_override", "options", "addresses")
    for name, value in vars(arguments).items():
        if name not in unchanged:
            setattr(arguments, name, _without_queries(value))


def _without_queries(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_queries(item) for item in value]
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    return value if match is None else match["start"] + without_query(match["address"])


def use_local_copies(
    arguments: argparse.Namespace, stack: contextlib.ExitStack
) -> None:
    """Replaces remote addresses in the arguments with paths of local copies.

    Args:
        arguments: parsed arguments, which are changed.
        stack: `ExitStack`. The changes to copies are uploaded at the latest when it
            closes.

    Raises:
        InputError: if the command cannot work on a copy, because several machines need
            the folder or because it watches the folder.
    """
    for name in (*WRITE_ARGUMENTS, *READ_ARGUMENTS):
        address = getattr(arguments, name, None)
        if not isinstance(address, str) or not is_url(address):
            continue
        if address.startswith(("postgres:", "postgresql:")) and name != "out":
            continue
        if name == "model" and is_hub_name(address):
            # `load_model` downloads models of the Hugging Face Hub and Kaggle by name.
            continue
        uses_cluster = (getattr(arguments, "engine", None) or "local") != "local"
        if uses_cluster or ("TF_CONFIG" in os.environ and name == "model_dir"):
            check_local_path(name, address, " that all machines share")
        if getattr(arguments, "watch", False):
            check_local_path(name, address)
        from align_keras.utils.mirror import mirrored

        is_read_only = arguments.command in READ_ONLY_COMMANDS
        writes_index = name == arguments.command == "index"
        writes = writes_index or (name in WRITE_ARGUMENTS and not is_read_only)
        # The files of an index change in place, so they are uploaded only at the end.
        copy = mirrored(address, name, writes=writes, pushes=not writes_index)
        path = str(stack.enter_context(copy))
        arguments.addresses[path] = address
        setattr(arguments, name, path)


class _Parser(argparse.ArgumentParser):
    """Argument parser that rejects abbreviations and suggests similar options."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        defaults = {"allow_abbrev": False, "formatter_class": HelpFormatter}
        super().__init__(*args, **{**defaults, **keywords})

    def error(self, message: str) -> NoReturn:
        """Exits with a usage error in which addresses have no query strings."""
        super().error(drop_queries(message))

    def option_names(self) -> dict[str, str]:
        """Returns a dict from the name of an argument to its option.

        Arguments of nested commands are included. The option of a positional argument
        is its placeholder in the help, such as `SOURCE`.
        """
        names: dict[str, str] = {}
        for nested in self.nested_commands().values():
            names |= nested.option_names()
        return names | {
            action.dest: str([*action.option_strings, action.metavar or action.dest][0])
            for action in self._actions
        }

    def check_options(self, argv: list[str]) -> list[str]:
        """Checks the options of a command before argparse does.

        argparse would report a missing argument before an unknown option.

        Args:
            argv: words of the command line after the name of the command.

        Returns:
            The words. If an option exists with hyphens only, underscores in its name
            are replaced.

        Raises:
            SystemExit: if an option is unknown.
        """
        options = self.options()
        parser = self
        words: list[str] = []
        for position, word in enumerate(argv):
            option = word.partition("=")[0]
            nested = parser.nested_commands()
            is_unknown = nested and not word.startswith("-") and word not in nested
            if option == "--" or (position == 0 and is_unknown):
                # Words after "--" are not options. argparse itself reports an unknown
                # nested command.
                return words + argv[position:]
            if word in nested:
                parser = nested[word]
                options |= parser.options()
            elif option.startswith("--") and option not in options:
                spelling = option.replace("_", "-")
                if spelling not in options:
                    parser.refuse_option(option, options)
                word = spelling + word[len(option) :]
            words.append(word)
        return words

    def options(self) -> set[str]:
        """Returns all spellings of the options."""
        return set(self._option_string_actions)

    def refuse_option(self, option: str, options: Iterable[str]) -> NoReturn:
        """Exits with a usage error that suggests the most similar option."""
        suggestion = did_you_mean(option, sorted(options))
        self.error(f"unknown option {option}. {suggestion}".rstrip())

    def nested_commands(self) -> "dict[str, _Parser]":
        """Returns the parsers of the nested commands by name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return action.choices
        return {}

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raises `ArgumentError`, with a suggestion, unless the value is a choice."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            choices = [str(choice) for choice in action.choices or ()]
            suggestion = did_you_mean(str(value), choices)
            if action.dest == "command":
                commands = f"The commands are {', '.join(choices)}."
                self.error(f"unknown command {value!r}. {suggestion or commands}")
            message = f"{error.message}. {suggestion}" if suggestion else error.message
            raise argparse.ArgumentError(action, message) from None


if __name__ == "__main__":
    sys.exit(main())
