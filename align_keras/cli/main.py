"""The `align-keras` command: finds the subcommand and answers its errors.

A subcommand's module has `add_arguments` and `run`, which gives the exit code. It alone
is imported, and TensorFlow only by `run`, so that help and usage errors answer at once.
"""

import argparse
import codecs
import contextlib
import difflib
import functools
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import align_keras
from align_keras.cli.common import on_disk
from align_keras.cli.error_messages import describe_bug, describe_error, with_options
from align_keras.utils.addresses import redacted, without_secrets
from align_keras.utils.errors import InputError
from align_keras.utils.quiet import silence_tensorflow
from align_keras.utils.remote import is_url

COMMANDS = {
    "quickstart": "train, evaluate, export and search on a small corpus in minutes",
    "corpus": "build a corpus: web pages and archives in, filtered shards out",
    "data": "write tables of public data sets, for training and for corpora",
    "train": "train or evaluate an experiment of experiments/ or of your own",
    "plan": "say what an experiment will take: parameters, memory, traffic, days",
    "evaluate": "measure a model by a protocol of the paper, or by all of them",
    "export": "write a model for TensorFlow Serving, for phones or for browsers",
    "index": "have folders of images searched: new and changed ones are embedded",
    "embed": "embed many images or captions to Parquet or NumPy files",
    "serve": "search an index by a page in a browser, on this machine",
    "search": "find images by words, by an image, or by both",
    "convert": "turn Hugging Face's ALIGN into a run folder, or a run folder into it",
}
# What a command writes to, and what it reads, also on a store: it works in a copy.
WRITTEN = ("model_dir", "out", "to", "html", "cache", "results")
READ = ("model", "index", "data_root")
READERS = ("search", "serve")
# Arguments that are texts. An address within them is no place to read or write.
_TEXTS = ("text", "plus", "minus", "where")
_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*://"
# An address alone, or after the kind of a source, such as `pairs:https://host/t.csv`.
_ADDRESS = re.compile(rf"(?P<start>(?:\w+[:=])?)(?P<address>{_SCHEME}.+)", re.DOTALL)
# A value or a list's item in `--params_override` that is an address. An item ends at a
# comma unless it has quotes.
_OVERRIDE_ADDRESS = re.compile(
    r"(?P<start>(?:[=\[,]\s*|:\s+))"
    rf"(?:(?P<quote>['\"])(?P<quoted>{_SCHEME}[^\s'\"]+)(?P=quote)"
    rf"|(?P<address>{_SCHEME}(?:\[[0-9A-Fa-f:.]*\]|[^\s,'\"\]}}])+))"
    r"(?=\s*(?:[,\]}]|$))"
)
FAILURE = 1
# As shells report a process that SIGINT has ended.
INTERRUPTED = 130
# From where a command goes on after an interrupt.
RESUMABLE = {
    "quickstart": "the last checkpoint",
    "train": "the last checkpoint",
    "evaluate": "what it has embedded and trained",
    "corpus": "the tasks that are done",
    "embed": "the shards that are done",
    "index": "what it has embedded",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns 0, 1 for a failure, or 130 for an interrupt.

    Exits with 2 for a usage error, and with 0 after `--help` and `--version`.
    """
    open_streams()
    words = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(list(words))
    remove_secrets(arguments)
    silence_tensorflow()
    failure = FAILURE
    try:
        with contextlib.ExitStack() as stack:
            bring_here(arguments, stack)
            code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain once
        # more when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt:
        failure = INTERRUPTED
        message = "interrupted"
        if arguments.command in RESUMABLE:
            kept = RESUMABLE[arguments.command]
            message += f"; the same command goes on from {kept}"
    except InputError as error:
        message = with_options(str(describe_error(error)), arguments.options)
    except Exception as error:
        message = describe_error(error) or describe_bug(error)
    print(f"align-keras {arguments.command}: error: {message}", file=sys.stderr)
    return failure


def open_streams() -> None:
    """Lets stdout and stderr take any text, also where they are closed or ASCII."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Else the next file that is opened would take its number, and its output.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "r" if number == 0 else "w"))
    codecs.register_error("align_keras_escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="align_keras_escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Escapes characters that a stream cannot encode as JSON does: \\u00e9."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Parses the command line; adds `command`, its `run`, and `options`, a dict from
    arguments' names to their options.
    """
    parser = _Parser(
        prog="align-keras",
        words=argv,
        description="ALIGN in Keras: image-text pairs in, a trained model, its "
        "numbers, its export and a working search out.",
        epilog="align-keras COMMAND --help shows a command's options.",
    )
    version = f"align-keras {align_keras.__version__}"
    parser.add_argument(
        "--version", action="version", version=version, help="show the version"
    )
    completes = any(item.startswith("--print-completion") for item in argv[:1])
    about = 'print a completion script: eval "$(align-keras --print-completion bash)"'
    if completes:
        import shtab

        shtab.add_argument_to(parser, "--print-completion", about)
    else:
        parser.add_argument("--print-completion", metavar="SHELL", help=about)
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands"
    )
    chosen = next((item for item in argv if not item.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        if name == chosen or completes:
            module = importlib.import_module(f"align_keras.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
        if name == chosen:
            after = argv.index(name) + 1
            argv = argv[:after] + command.checked(argv[after:])
    arguments = parser.parse_args(argv)
    arguments.options = subparsers.choices[arguments.command].options()
    return arguments


def remove_secrets(arguments: argparse.Namespace) -> None:
    """Removes passwords and tokens from arguments that are addresses.

    Later steps can then print and store the arguments. Texts to search for and
    conditions stay as they are.
    """
    for name, value in vars(arguments).items():
        if name not in _TEXTS and name != "options":
            setattr(arguments, name, _clean_value(name, value))


def _clean_value(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_clean_value(name, item) for item in value]
    if not isinstance(value, str):
        return value
    if name == "params_override":
        return _OVERRIDE_ADDRESS.sub(_clean_override, value)
    match = _ADDRESS.fullmatch(value)
    if match is None:
        return value
    return match["start"] + without_secrets(match["address"])


def _clean_override(match: re.Match[str]) -> str:
    quote = match["quote"] or ""
    address = without_secrets(match["quoted"] or match["address"])
    return f"{match['start']}{quote}{address}{quote}"


def bring_here(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> None:
    """Puts local copies, kept up until `stack` ends, in the place of addresses."""
    for name in (*WRITTEN, *READ):
        address = getattr(arguments, name, None)
        if not isinstance(address, str) or not is_url(address):
            continue
        if address.startswith(("postgres:", "postgresql:")) and name != "out":
            continue
        if name == "model" and address.startswith("hf://"):
            continue  # A model of the hub, which is opened by its name.
        several = (getattr(arguments, "engine", None) or "local") != "local"
        if several or ("TF_CONFIG" in os.environ and name == "model_dir"):
            on_disk(name, address, " that all machines see")
        if getattr(arguments, "watch", False):
            on_disk(name, address)
        from align_keras.utils.mirror import mirrored

        writes = name in WRITTEN and arguments.command not in READERS
        pushes = arguments.command != "index"
        copy = mirrored(address, name, writes=writes, pushes=pushes)
        setattr(arguments, name, str(stack.enter_context(copy)))


class _Parser(argparse.ArgumentParser):
    """Parser without abbreviations. Suggests the nearest option for an unknown one."""

    def __init__(self, *args: Any, words: Sequence[str] = (), **keywords: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **keywords})
        self._words = words

    def add_subparsers(self, **keywords: Any) -> Any:
        """Adds commands, whose parsers have the words of the command line, too."""
        parser_class = functools.partial(type(self), words=self._words)
        return super().add_subparsers(**{"parser_class": parser_class, **keywords})

    def error(self, message: str) -> NoReturn:
        """Ends the process with a usage error, without passwords of addresses."""
        matches = [re.search(f"{_SCHEME}.+", word, re.DOTALL) for word in self._words]
        addresses = [match[0] for match in matches if match]
        super().error(redacted(message, *addresses))

    def options(self) -> dict[str, str]:
        """Returns the option of each argument, nested commands included."""
        options: dict[str, str] = {}
        for nested in self.nested_commands().values():
            options |= nested.options()
        return options | {
            action.dest: str([*action.option_strings, action.metavar or action.dest][0])
            for action in self._actions
        }

    def checked(self, argv: list[str]) -> list[str]:
        """Returns the command's words, with hyphens for underscores in its options.

        Ends the process at an unknown option. argparse would report a missing argument
        first.
        """
        options = set(self._option_string_actions)
        parser = self
        words: list[str] = []
        for position, word in enumerate(argv):
            option = word.partition("=")[0]
            nested = parser.nested_commands()
            is_unknown = nested and not word.startswith("-") and word not in nested
            if option == "--" or (position == 0 and is_unknown):
                # argparse reports an unknown nested command.
                return words + argv[position:]
            if word in nested:
                parser = nested[word]
                options |= set(parser._option_string_actions)
            elif option.startswith("--") and option not in options:
                spelling = option.replace("_", "-")
                if spelling not in options:
                    suggestion = _did_you_mean(option, sorted(options))
                    separator = ";" if suggestion else ""
                    parser.error(f"unknown option {option}{separator}{suggestion}")
                word = spelling + word[len(option) :]
            words.append(word)
        return words

    def nested_commands(self) -> "dict[str, _Parser]":
        """Returns the parsers of the nested commands by name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return action.choices
        return {}

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raises for a value or a command that is not one of the choices."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            choices = [str(choice) for choice in action.choices or ()]
            suggestion = _did_you_mean(str(value), choices)
            if action.dest == "command":
                self.error(
                    f"unknown command {value!r};{suggestion} commands are "
                    f"{', '.join(choices)}"
                )
            message = f"{error.message};{suggestion}" if suggestion else error.message
            raise argparse.ArgumentError(action, message) from None


def _did_you_mean(word: str, choices: list[str]) -> str:
    """Returns a question that suggests the choice nearest to a word, or ""."""
    matches = difflib.get_close_matches(word, choices, n=1)
    return f" did you mean {matches[0]}?" if matches else ""


if __name__ == "__main__":
    sys.exit(main())
