"""The `align-keras` command: finds the subcommand and answers its errors.

Only the chosen subcommand's module is imported, and TensorFlow only by its
`run`, so that help and usage errors answer at once.
"""

import argparse
import codecs
import difflib
import errno
import importlib
import os
import pathlib
import re
import sys
import tempfile
import traceback

from align_keras.utils.errors import InputError

COMMANDS = {
    "quickstart": "train, evaluate, export and search on a small corpus in minutes",
    "corpus": "build a corpus: web pages and archives in, filtered shards out",
    "train": "train or evaluate an experiment of experiments/ or of your own",
    "plan": "say what an experiment will take: parameters, memory, traffic, days",
    "evaluate": "measure a model by a protocol of the paper, or by all of them",
    "export": "write a model for TensorFlow Serving, for phones or for browsers",
    "search": "find pictures in a finished run, by a text or by a picture",
    "convert": "turn Hugging Face's ALIGN into a run folder, or a run folder into it",
}
# What is written to, which is on this machine: gs://bucket/run would become a folder
# "gs:" in the current one.
LOCAL = ("model_dir", "out", "to", "html", "cache", "results")
DONE, FAILURE = 0, 1
# From where a command goes on after an interrupt.
RESUMABLE = {
    "quickstart": "the last checkpoint",
    "train": "the last checkpoint",
    "evaluate": "what it has embedded and trained",
    "corpus": "the tasks that are done",
}


def main(argv=None):
    """Runs a subcommand.

    Args:
        argv: list of str, or None for the process's arguments.

    Returns:
        int, the exit code: 0 done, 1 failure.

    Raises:
        SystemExit: with code 2 for a usage error, 0 after `--help` and
            `--version`.
    """
    open_streams()
    arguments = parse_arguments(sys.argv[1:] if argv is None else list(argv))
    # TensorFlow's start-up notes hide what matters; its errors reach Python as
    # exceptions. Must precede the import of TensorFlow.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        check_local(arguments)
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain once
        # more when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt:
        message = "interrupted"
        if arguments.command in RESUMABLE:
            kept = RESUMABLE[arguments.command]
            message += f"; the same command goes on from {kept}"
    except Exception as error:
        message = describe_error(error) or describe_bug(error)
    print(f"align-keras {arguments.command}: error: {message}", file=sys.stderr)
    return FAILURE


def open_streams():
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


def _escape(error):
    """Characters that a stream hasn't got, as JSON writes them: \\u00e9."""
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end


def parse_arguments(argv):
    """Parses the command line.

    Args:
        argv: list of str.

    Returns:
        `argparse.Namespace` with the subcommand's arguments, `command` and its
        `run`.

    Raises:
        SystemExit: as `main`.
    """
    parser = _Parser(
        prog="align-keras",
        description="ALIGN in Keras: image-text pairs in, a trained model, its "
        "numbers, its export and a working search out.",
        epilog="align-keras COMMAND --help shows a command's options.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands"
    )
    chosen = next((item for item in argv if not item.startswith("-")), None)
    commands = {}
    for name, summary in COMMANDS.items():
        commands[name] = subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            allow_abbrev=False,
        )
        if name == chosen:
            module = importlib.import_module(f"align_keras.cli.{name}")
            module.add_arguments(commands[name])
            commands[name].set_defaults(run=module.run)
    if chosen is not None and chosen not in COMMANDS:
        parser.error(
            f"unknown command '{chosen}';{_did_you_mean(chosen, COMMANDS)} commands "
            f"are {', '.join(COMMANDS)}"
        )
    if chosen is not None:
        commands[chosen].refuse_unknown_options(argv)
    return parser.parse_args(argv)


def check_local(arguments):
    """Raises if what is written to is the address of a remote folder or file.

    Args:
        arguments: `argparse.Namespace`.

    Raises:
        InputError: for `gs://bucket/run` and its like.
    """
    for name in LOCAL:
        value = getattr(arguments, name, None)
        if isinstance(value, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value):
            raise InputError(
                f"--{name} must be on this machine, received {value}; name a local "
                "path, or mount the remote folder (gcsfuse, s3fs) and name its place."
            )


def describe_error(error):
    """Says in one line what went wrong, where it's no bug of this package.

    Args:
        error: exception.

    Returns:
        str, or None for an error that nobody expects.

    Example:

    >>> describe_error(InputError("`k` must be >= 1, received 0; raise it."))
    '`k` must be >= 1, received 0; raise it.'
    """
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    # TensorFlow has one class for a full disk and for exhausted memory, and
    # h5py's errors have no errno.
    exhausted = _is_tensorflow(error, "ResourceExhaustedError")
    if isinstance(error, OSError) or _is_tensorflow(error, "OpError"):
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
            return f"no space left on the disk{_of(error)}; free some, then run again"
        if number == errno.EFBIG or "File too large" in text:
            return (
                f"File too large for this disk or process{_of(error)}; write to "
                "another disk, or raise `ulimit -f`"
            )
    lost = ("UnavailableError", "AbortedError", "CancelledError", "InternalError")
    if "ollective" in text and any(_is_tensorflow(error, name) for name in lost):
        return (
            "another process of this run ended or can't be reached; start all of them "
            f"again, and the run goes on from its last checkpoint ({text[:160]})"
        )
    if _is_tensorflow(error, "DataLossError"):
        return (
            "a file of the data set or of a checkpoint is damaged; copy it again, or "
            f"make it anew ({text[:160]})"
        )
    if isinstance(error, MemoryError) or exhausted:
        return f"out of memory; make the batch or the model smaller ({text[:160]})"
    if isinstance(error, PermissionError):
        return f"no permission{_of(error)}; change it, or choose another folder"
    if isinstance(error, OSError):
        return f"{error.strerror or text}{_of(error)}"
    return None


def describe_bug(error):
    """Says in one line what nobody expected, and keeps its traceback in a file.

    Args:
        error: exception, raised.

    Returns:
        str; with the whole traceback where no file can be written.
    """
    whole = "".join(traceback.format_exception(error))
    package = pathlib.Path(__file__).parents[1]
    places = [
        f"align_keras/{pathlib.Path(frame.filename).relative_to(package)}, line "
        f"{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if pathlib.Path(frame.filename).is_relative_to(package)
    ]
    text = " ".join(str(error).split())[:300]
    message = f"unexpected {type(error).__name__}: {text}"
    if places:
        message += f" ({places[-1]})"
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="align-keras-",
            suffix=".log",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as file:
            file.write(whole)
    except OSError:
        return f"{message}; please report it:\n{whole}"
    return (
        f"{message}; an input is damaged, or this is a bug: please report it with "
        f"{file.name}"
    )


def _of(error):
    name = getattr(error, "filename", None)
    return (
        f": {os.fsdecode(name)}" if isinstance(name, str | bytes | os.PathLike) else ""
    )


def _is_tensorflow(error, name):
    """Compares by name, since importing TensorFlow to ask takes seconds."""
    return any(
        base.__name__ == name and base.__module__.startswith("tensorflow")
        for base in type(error).__mro__
    )


def _did_you_mean(word, known):
    near = difflib.get_close_matches(word, known, n=1)
    return f" did you mean {near[0]}?" if near else ""


class _Parser(argparse.ArgumentParser):
    """Suggests the nearest option for an unknown one.

    argparse itself would first complain of the required option that the
    unknown one was meant to be.
    """

    def refuse_unknown_options(self, argv):
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for item in argv:
            option = item.partition("=")[0]
            if option == "--":
                return
            if option.startswith("--") and option not in known:
                near = _did_you_mean(option, known)
                self.error(f"unknown option {option}{near and ';'}{near}")


class _Version(argparse.Action):
    """Looks the version up only when it's asked for."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, dest, nargs=0, help="show the version")

    def __call__(self, parser, namespace, values, option_string=None):
        import align_keras

        print(f"align-keras {align_keras.__version__}")
        parser.exit(DONE)


if __name__ == "__main__":
    sys.exit(main())
