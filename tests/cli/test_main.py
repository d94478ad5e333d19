"""The `align-keras` command: help, usage errors, exit codes and error messages."""

import errno
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import types

import fsspec
import pytest

from align_keras import __version__
from align_keras.cli import main as main_module
from align_keras.cli.error_messages import describe_error
from align_keras.cli.main import COMMANDS, main
from align_keras.utils.addresses import with_query
from align_keras.utils.errors import InputError
from align_keras.utils.files import placeable_folder, replaceable_file

ROOT = pathlib.Path(main_module.__file__).parents[2]


def usage_error(capsys, *arguments):
    """Runs a command with a usage error and returns the last line of stderr."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


@pytest.fixture
def command(monkeypatch):
    """Module that replaces the module of `search`. Tests set its functions."""
    module = types.ModuleType("align_keras.cli.search")

    def add_arguments(parser):
        parser.add_argument("--model_dir", required=True)
        parser.add_argument("--count", type=int, default=1)
        parser.add_argument("text", nargs="*")

    module.add_arguments = add_arguments
    module.run = lambda arguments: 0
    monkeypatch.setitem(sys.modules, "align_keras.cli.search", module)
    return module


def run_failing(command, error, capsys):
    """Runs a command that raises `error`. Returns the exit code and stderr."""

    def run(arguments):
        raise error

    command.run = run
    code = main(["search", "--model_dir", "x"])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for name, summary in COMMANDS.items():
        assert name in captured.out
        assert summary.split(",")[0] in " ".join(captured.out.split())


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    name, version = capsys.readouterr().out.split(maxsplit=1)
    assert name == "align-keras"
    assert version.strip() == __version__


def test_usage_errors_name_the_mistake(capsys, command):
    assert "required: COMMAND" in usage_error(capsys)
    assert "mean search?" in usage_error(capsys, "serach")
    assert "quickstart, corpus, data, train, finetune" in usage_error(capsys, "xyzzy")
    assert "required: --model_dir" in usage_error(capsys, "search")
    assert "invalid int value: 'two'" in usage_error(
        capsys, "search", "--model_dir", "x", "--count", "two"
    )
    # argparse alone would report the missing option --model_dir.
    for option in ("--model-dir", "--modeldir=x", "--model_di"):
        message = usage_error(capsys, "search", option, "x")
        assert "unknown option --model" in message
        assert message.endswith(". Did you mean --model_dir?")
    message = usage_error(capsys, "search", "--xyzzy")
    assert message == "align-keras search: error: unknown option --xyzzy."
    message = usage_error(capsys, "train", "--model_dir", "x", "--mode", "evl")
    assert message.endswith(". Did you mean eval?")
    # argparse alone would print the usage of `align-keras` for these mistakes.
    message = usage_error(capsys, "search", "--model_dir", "x", "-x")
    assert message == "align-keras search: error: unknown option -x."
    message = usage_error(capsys, "mcp", "my_index")
    assert message == "align-keras mcp: error: unexpected arguments: my_index"
    message = usage_error(capsys, "--vers")
    assert message.endswith("unknown option --vers. Did you mean --version?")


@pytest.fixture
def nested(command):
    """Command `search` with the nested commands `text` and `image`."""

    def add_arguments(parser):
        parser.add_argument("--quiet", action="store_true")
        kinds = parser.add_subparsers(dest="kind", metavar="KIND")
        kinds.add_parser("text").add_argument("--max-count", type=int)
        kinds.add_parser("image").add_argument("--file", required=True)

    command.add_arguments = add_arguments
    return command


def test_a_nested_command_accepts_the_options_of_its_parent(capsys, nested):
    parsed_arguments = []
    nested.run = lambda arguments: parsed_arguments.append(arguments) or 0
    assert main(["search", "--quiet", "text", "--max-count", "3"]) == 0
    assert (
        parsed_arguments[0].kind,
        parsed_arguments[0].quiet,
        parsed_arguments[0].max_count,
    ) == ("text", True, 3)
    message = usage_error(capsys, "search", "image", "--fil", "a.jpg")
    assert message.endswith("unknown option --fil. Did you mean --file?")
    assert message.startswith("align-keras search image: ")
    # --file is an option of the nested command `image` only.
    message = usage_error(capsys, "search", "text", "--file", "a.jpg")
    assert "unknown option --file" in message
    assert main(["search", "text", "--max_count=3"]) == 0
    assert parsed_arguments[-1].max_count == 3
    message = usage_error(capsys, "search", "imagee", "--file", "a.jpg")
    assert message.endswith(". Did you mean image?")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("model_dir must be a run, received x.", "--model_dir must be a run, received"),
        ("count and model_dir must differ; lower `count`.", "--count and --model_dir "),
        ("no count: `count` 3 or `other`", "no count: --count 3 or `other`"),
        ("text must not be blank.", "text must not be blank."),
        ("count: no such file", "--count: no such file"),
        ("counts may be at most 3", "counts may be at most 3"),
    ],
)
def test_messages_name_options_instead_of_arguments(command, capsys, text, expected):
    code, message = run_failing(command, InputError(text), capsys)
    assert code == 1 and message.startswith(f"align-keras search: error: {expected}")


def test_messages_name_options_of_nested_commands(nested, capsys):
    def run(arguments):
        raise InputError("max_count must be > 0, received -1.")

    nested.run = run
    assert main(["search", "text", "--max-count", "-1"]) == 1
    assert "error: --max-count must" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_know_commands_options_and_values(capsys, shell):
    with pytest.raises(SystemExit) as exit_info:
        main(["--print-completion", shell])
    assert exit_info.value.code == 0
    script = capsys.readouterr().out
    assert "train_and_eval" in script and "quickstart" in script
    assert all(name in script for name in ("params_override", "model_dir"))


def test_words_after_two_dashes_are_not_options(command):
    texts = []
    command.run = lambda arguments: texts.append(arguments.text) or 0
    assert main(["search", "--model_dir", "x", "--", "--red", "bicycle"]) == 0
    assert texts == [["--red", "bicycle"]]


@pytest.fixture
def parsed(command):
    """Function that runs `search` and returns the parsed arguments."""

    def add_arguments(parser):
        parser.add_argument("text", nargs="*")
        parser.add_argument("--table")
        for name in ("--source", "--params_override", "--plus", "--minus", "--where"):
            parser.add_argument(name, action="append")

    def parsed(*words):
        results = []
        command.run = lambda arguments: results.append(arguments) or 0
        assert main(["search", *words]) == 0
        return results[0]

    command.add_arguments = add_arguments
    return parsed


@pytest.mark.parametrize(
    "text",
    [
        "url = 'https://shop.org/item?token=7&id=5'",
        "see http://nas:80/x and mail me@home",
        "https://shop.org/item?token=7",
    ],
)
def test_addresses_in_texts_and_conditions_do_not_change(parsed, text):
    arguments = parsed(
        text, "--plus", text, "--minus", text, "--where", text, f"--where={text}"
    )
    assert arguments.text == arguments.plus == arguments.minus == [text]
    assert arguments.where == [text, text]
    assert parsed("--table", f"a note: {text}").table == f"a note: {text}"


def test_query_strings_of_addresses_are_removed_and_remembered(parsed):
    arguments = parsed(
        "--table",
        "https://one/t.csv?sig=S3cr&page=2",
        "--source",
        "pairs:https://two/t.csv?sig=S3cr",
        "--source=https://three/t.csv?sig=S3cr",
    )
    assert arguments.table == "https://one/t.csv"
    assert arguments.source == ["pairs:https://two/t.csv", "https://three/t.csv"]
    for address in (arguments.table, "https://two/t.csv", "https://three/t.csv"):
        assert "?sig=S3cr" in with_query(address)


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_is_the_result_of_the_command(command, code):
    command.run = lambda arguments: code
    assert main(["search", "--model_dir", "x"]) == code


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--model_dir", "hdfs://host:9000/run"),
        ("quickstart", "--data-dir", "gs://bucket/run"),
        ("index", "--watch", "--index", "s3://bucket/index"),
        ("embed", "a.txt", "--to", "s3://bucket/x", "--engine", "dask:host:1"),
        ("search", "words", "--model_dir", "hdfs://host:9000/run"),
        ("corpus", "filter", "--out", "https://host/corpus"),
        ("export", "--model", "x", "--to", "hf://user/model"),
    ],
)
def test_a_remote_address_never_creates_a_local_folder(
    capsys, tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert "received" in line.lower() and "://" in line and "must be" in line
    assert captured.out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("path_type", [str, pathlib.Path])
def test_library_functions_refuse_remote_addresses(tmp_path, monkeypatch, path_type):
    from align_keras import load_model
    from align_keras.config import CorpusConfig
    from align_keras.runs.corpus_build import build_corpus
    from align_keras.search.bulk_embeddings import embed
    from align_keras.search.image_index import Index

    monkeypatch.chdir(tmp_path)
    model = load_model("align_small_en")
    path = path_type("s3://bucket/out")
    for call in (
        lambda: placeable_folder(path, "to"),
        lambda: replaceable_file(path, "html"),
        lambda: build_corpus(path, CorpusConfig(sources=("html:x",))),
        lambda: embed("captions.txt", path, model=model),
        lambda: Index.build(path, ["."], model),
    ):
        with pytest.raises(InputError, match="s3:/"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_command_works_on_a_copy_of_a_remote_folder(command, monkeypatch, tmp_path):
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    fs.store.clear()
    fs.pipe("/b/index/a.txt", b"1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = []
    command.run = lambda arguments: folders.append(arguments.model_dir) or 0
    assert main(["search", "--model_dir", "memory://b/index"]) == 0
    assert pathlib.Path(folders[0], "a.txt").read_text() == "1"
    assert fs.find("/") == ["/b/index/a.txt"]
    fs.store.clear()


def test_an_error_names_the_address_of_a_remote_folder(
    command, monkeypatch, tmp_path, capsys
):
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    fs.store.clear()
    fs.pipe("/b/index/a.txt", b"1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(arguments):
        raise InputError(f"The index {arguments.model_dir} is empty. Add images.")

    command.run = run
    assert main(["search", "--model_dir", "memory://b/index"]) == 1
    message = "The index memory://b/index is empty. Add images."
    assert capsys.readouterr().err.endswith(f"error: {message}\n")
    fs.store.clear()


def test_tensorflow_logs_only_if_the_user_sets_the_level(command, monkeypatch):
    levels = []
    name = "TF_CPP_MIN_LOG_LEVEL"
    command.run = lambda arguments: levels.append(os.environ[name]) or 0
    monkeypatch.delenv(name, raising=False)
    main(["search", "--model_dir", "x"])
    monkeypatch.setenv(name, "0")
    main(["search", "--model_dir", "x"])
    assert levels == ["3", "0"]


class OpError(Exception):
    """Replacement of the TensorFlow class, so that no test loads TensorFlow."""


class ResourceExhaustedError(OpError):
    """Replacement of the TensorFlow class, whose name the command recognizes."""


for error_class in (OpError, ResourceExhaustedError):
    error_class.__module__ = "tensorflow.python.framework.errors_impl"


@pytest.mark.parametrize(
    "error, expected",
    [
        (
            InputError("`k` must be >= 1,\n received 0; raise it."),
            "`k` must be >= 1",
        ),
        (OSError(errno.ENOSPC, "No space left", "/run/a"), "No space left"),
        (OSError("Can't write data (No space left on device)"), "No space left"),
        (OSError(errno.EDQUOT, "Quota exceeded", "a"), "No space left.*: a"),
        (ResourceExhaustedError("No space left on device"), "No space left"),
        (
            ResourceExhaustedError("OOM when allocating"),
            r"Out of memory \(OOM when allocating\).*smaller batch",
        ),
        (OSError(errno.EFBIG, "File too large"), "File too large for"),
        (OpError("part-0; File too large [Op:SaveV2]"), "File too large for"),
        (MemoryError(), "Out of memory.*smaller batch"),
        (
            PermissionError(errno.EACCES, "Denied", b"/r"),
            "Permission denied: /r.*permissions",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "a.csv"),
            "No such file: a.csv",
        ),
        (OSError("cannot identify image file"), "cannot identify image file"),
        (KeyboardInterrupt(), "Interrupted."),
    ],
)
def test_expected_failures_print_one_line(command, capsys, error, expected):
    code, message = run_failing(command, error, capsys)
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert re.match(f"align-keras search: error: {expected}", message)
    assert message.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("x")])
def test_a_bug_prints_one_line_and_stores_the_traceback(
    command, capsys, tmp_path, monkeypatch, error
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, message = run_failing(command, error, capsys)
    assert code == 1 and message.count("\n") == 1
    error_name = type(error).__name__
    assert (
        f"error: Unexpected {error_name}: " in message
        and "cli/main.py, line" in message
    )
    (log,) = tmp_path.iterdir()
    assert str(log) in message
    traceback = log.read_text()
    assert (
        traceback.startswith("Traceback")
        and "run(arguments)" in traceback
        and error_name in traceback
    )
    assert describe_error(error) is None


def test_a_bug_prints_the_traceback_if_no_file_can_be_written(
    command, capsys, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", "/proc/nothing")
    code, message = run_failing(command, ValueError("a bug"), capsys)
    assert code == 1 and "Traceback (most recent" in message


def test_a_damaged_file_is_described():
    class DataLossError(Exception):
        __module__ = "tensorflow.python.framework.errors_impl"

    line = describe_error(DataLossError("corrupted record at 12"))
    assert line.startswith(
        "A file of the data set or of a checkpoint is damaged (corrupted record"
    )


@pytest.mark.parametrize(
    "workers, is_described",
    [(["a:1", "b:1"], True), (["a:1"], False), (None, False)],
)
def test_the_end_of_another_process_of_a_run_is_described(
    workers, is_described, monkeypatch
):
    class DeadlineExceededError(Exception):
        __module__ = "tensorflow.python.framework.errors_impl"

    config = {} if workers is None else {"cluster": {"worker": workers}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    text = "Collective ops is aborted by: Deadline Exceeded"
    line = describe_error(DeadlineExceededError(text)) or ""
    rule = "Another process.*cannot be reached.*Collective"
    assert bool(re.match(rule, line)) == is_described


def test_an_error_of_another_library_with_the_same_name_is_a_bug():
    class ResourceExhaustedError(Exception):
        pass

    assert describe_error(ResourceExhaustedError("no space left")) is None


# Replaces the subcommand `search`, so that a process of the command starts quickly.
SCRIPT = """
import sys, types
module = types.ModuleType("align_keras.cli.search")
module.add_arguments = lambda parser: None
def run(arguments):
    {body}
    return 0
module.run = run
sys.modules["align_keras.cli.search"] = module
from align_keras.cli.main import main
sys.exit(main(sys.argv[1:] or ["search"]))
"""


def test_a_closed_pipe_is_not_an_error():
    body = "[print('line', number) for number in range(100_000)]"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == ""
    assert process.wait(timeout=30) == 1


@pytest.mark.parametrize("command", [["search"], ["--help"]])
def test_a_pipe_that_is_closed_before_the_last_line_is_not_an_error(command):
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body="print('short')"), *command],
        cwd=ROOT,
        # The line stays in the buffer until the process ends.
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write_end)
    assert (process.returncode, process.stderr) == (1, "")


def test_a_closed_stdout_is_not_an_error(tmp_path):
    # A file that is opened while stdout is closed may get the number of stdout. The
    # printed text must not go to this file.
    body = "file = open('output', 'w'); print('text', flush=True); file.write('x')"
    script = f"{sys.executable} -c {shlex.quote(SCRIPT.format(body=body))} >&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert (tmp_path / "output").read_text() == "x"


def test_json_is_escaped_if_stdout_is_ascii():
    body = "import json; print(json.dumps('é € 😀 \\udc80', ensure_ascii=False))"
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert json.loads(result.stdout.decode("ascii")) == "é € 😀 \udc80"


def test_an_interrupt_prints_one_line():
    # If the tests run as a background job, the process inherits that SIGINT is ignored.
    body = (
        "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler);"
        " signal.raise_signal(signal.SIGINT); time.sleep(9)"
    )
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 130
    assert result.stderr == "align-keras search: error: Interrupted.\n"
