import errno
import json
import os
import pathlib
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
from align_keras.utils.addresses import with_secrets
from align_keras.utils.errors import InputError
from align_keras.utils.files import placeable_folder, replaceable_file

ROOT = pathlib.Path(main_module.__file__).parents[2]


def usage_error(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


@pytest.fixture
def command(monkeypatch):
    """Replaces the module of `search`; returns it for the test to fill."""
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
    def run(arguments):
        raise error

    command.run = run
    code = main(["search", "--model_dir", "x"])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for name, summary in COMMANDS.items():
        assert name in captured.out
        assert summary.split(",")[0] in " ".join(captured.out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_commands_help(capsys, name):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    # An option that each command has, most require it.
    required = {
        "convert": "--to",
        "data": "karpathy",
        "corpus": "--out",
        "export": "--to",
        "plan": "--devices",
        "evaluate": "--model",
        "index": "--to",
        "embed": "--to",
        "serve": "--model",
    }
    required = required.get(name, "--model_dir")
    assert f"{required} " in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    name, version = capsys.readouterr().out.split(maxsplit=1)
    assert name == "align-keras"
    assert version.strip() == __version__


def test_usage_errors(capsys, command):
    assert "required: COMMAND" in usage_error(capsys)
    assert "Did you mean search?" in usage_error(capsys, "serach")
    assert "The commands are quickstart, corpus, data, train, plan" in usage_error(
        capsys, "xyzzy"
    )
    assert "required: --model_dir" in usage_error(capsys, "search")
    assert "invalid int value: 'two'" in usage_error(
        capsys, "search", "--model_dir", "x", "--count", "two"
    )
    # Not "required: --model_dir", which is what argparse would say.
    for wrong in ("--model-dir", "--modeldir=x", "--model_di"):
        message = usage_error(capsys, "search", wrong, "x")
        assert "unknown option --model" in message
        assert message.endswith(". Did you mean --model_dir?")
    message = usage_error(capsys, "search", "--xyzzy")
    assert message == "align-keras search: error: unknown option --xyzzy."
    message = usage_error(capsys, "train", "--model_dir", "x", "--mode", "evl")
    assert message.endswith(". Did you mean eval?")
    assert "unrecognized arguments: -x" in usage_error(
        capsys, "search", "--model_dir", "x", "-x"
    )


@pytest.fixture
def nested(command):
    """`search` as a command of two nested ones, `text` and `image`."""

    def add_arguments(parser):
        parser.add_argument("--quiet", action="store_true")
        kinds = parser.add_subparsers(dest="kind", metavar="KIND")
        kinds.add_parser("text").add_argument("--max-count", type=int)
        kinds.add_parser("image").add_argument("--file", required=True)

    command.add_arguments = add_arguments
    return command


def test_a_nested_command_has_its_options_and_those_before_it(capsys, nested):
    seen = []
    nested.run = lambda arguments: seen.append(arguments) or 0
    assert main(["search", "--quiet", "text", "--max-count", "3"]) == 0
    assert (seen[0].kind, seen[0].quiet, seen[0].max_count) == ("text", True, 3)
    message = usage_error(capsys, "search", "image", "--fil", "a.jpg")
    assert message.endswith("unknown option --fil. Did you mean --file?")
    assert message.startswith("align-keras search image: ")
    # Another nested command's.
    message = usage_error(capsys, "search", "text", "--file", "a.jpg")
    assert "unknown option --file" in message
    assert main(["search", "text", "--max_count=3"]) == 0
    assert seen[-1].max_count == 3
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
def test_a_librarys_argument_is_named_as_the_commands_option(
    command, capsys, text, expected
):
    code, message = run_failing(command, InputError(text), capsys)
    assert code == 1 and message.startswith(f"align-keras search: error: {expected}")


def test_an_argument_is_named_as_the_option_of_a_nested_command(nested, capsys):
    def run(arguments):
        raise InputError("max_count must be > 0, received -1.")

    nested.run = run
    assert main(["search", "text", "--max-count", "-1"]) == 1
    assert "error: --max-count must be > 0" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_options_and_values(capsys, shell):
    with pytest.raises(SystemExit) as caught:
        main(["--print-completion", shell])
    assert caught.value.code == 0
    script = capsys.readouterr().out
    assert "train_and_eval" in script and "quickstart" in script
    assert all(name in script for name in ("params_override", "model_dir"))


def test_arguments_after_two_dashes_are_no_options(command):
    seen = []
    command.run = lambda arguments: seen.append(arguments.text) or 0
    assert main(["search", "--model_dir", "x", "--", "--red", "bicycle"]) == 0
    assert seen == [["--red", "bicycle"]]


@pytest.fixture
def parsed(command):
    """Runs `search` with options as of several commands; returns its arguments."""

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
def test_texts_and_conditions_keep_addresses_as_they_are(parsed, text):
    arguments = parsed(
        text, "--plus", text, "--minus", text, "--where", text, f"--where={text}"
    )
    assert arguments.text == arguments.plus == arguments.minus == [text]
    assert arguments.where == [text, text]
    assert parsed("--table", f"a note: {text}").table == f"a note: {text}"


def test_addresses_lose_their_secrets_and_the_run_has_them(parsed):
    arguments = parsed(
        "--table",
        "https://me:S3cr@one/t.csv?token=S3cr&page=2",
        "--source",
        "pairs:https://me:S3cr@two/t.csv",
        "--source=https://me:S3cr@three/t.csv",
    )
    assert arguments.table == "https://me@one/t.csv?page=2"
    assert arguments.source == [
        "pairs:https://me@two/t.csv",
        "https://me@three/t.csv",
    ]
    for address in (arguments.table, "https://me@two/t.csv", "https://me@three/t.csv"):
        assert "S3cr" in with_secrets(address)


@pytest.mark.parametrize(
    "override, clean",
    [
        ("a=https://h/t?token=S3cr,b=1", "a=https://h/t,b=1"),
        (
            "a=http://me:S3cr@h/x.csv,b=http://you:S3cr@g/y.csv",
            "a=http://me@h/x.csv,b=http://you@g/y.csv",
        ),
        ("a='https://h/t?sig=S3cr',b=1", "a='https://h/t',b=1"),
        (
            "a=[https://h/t?sig=S3cr, http://me:S3cr@[::1]:80/u],b=1",
            "a=[https://h/t, http://me@[::1]:80/u],b=1",
        ),
        ("a='see http://nas:80/x and me@home'", "a='see http://nas:80/x and me@home'"),
    ],
)
def test_addresses_of_overrides_lose_their_secrets(parsed, override, clean):
    assert parsed("--params_override", override).params_override == [clean]


@pytest.mark.parametrize("password", ["S3cr", "a S3cr", "a?S3cr"])
def test_usage_errors_hide_passwords(capsys, command, password):
    address = f"postgresql://me:{password}@h/db"
    for words in (
        [address],
        ["search", "--xyzzy", address, f"--model_di={address}"],
        ["search", "--model_dir", "x", "--count", address],
        ["search", "--model_dir", "x", f"--count={address}"],
    ):
        assert "S3cr" not in usage_error(capsys, *words)


@pytest.mark.parametrize("code", [0, 1])
def test_the_commands_code_is_the_exit_code(command, code):
    command.run = lambda arguments: code
    assert main(["search", "--model_dir", "x"]) == code


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--model_dir", "hdfs://host:9000/run"),
        ("quickstart", "--data-dir", "gs://bucket/run"),
        ("index", "--watch", "--to", "s3://bucket/index"),
        ("embed", "a.txt", "--to", "s3://bucket/x", "--engine", "dask:host:1"),
        ("search", "words", "--model_dir", "hdfs://host:9000/run"),
        ("corpus", "filter", "--out", "https://host/corpus"),
        ("export", "--model", "x", "--to", "hf://user/model"),
    ],
)
def test_a_remote_folder_never_becomes_a_local_one(
    capsys, tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert "received" in line.lower() and "://" in line and "must be" in line
    assert captured.out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [str, pathlib.Path])
def test_no_function_makes_a_folder_named_as_a_store(tmp_path, monkeypatch, make):
    from align_keras import load_model
    from align_keras.config import CorpusConfig
    from align_keras.runs.corpus_build import build_corpus
    from align_keras.search.bulk_embeddings import embed
    from align_keras.search.image_index import Index

    monkeypatch.chdir(tmp_path)
    model = load_model("align_small_en")
    path = make("s3://bucket/out")
    for call in (
        lambda: placeable_folder(path, "to"),
        lambda: replaceable_file(path, "html"),
        lambda: build_corpus(path, CorpusConfig(sources=("html:x",))),
        lambda: embed("captions.txt", path, model=model),
        lambda: Index.build(path, ["."], model),
    ):
        with pytest.raises(InputError, match="must be a local path, received s3:/"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_command_works_in_a_copy_of_a_remote_folder(command, monkeypatch, tmp_path):
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    fs.store.clear()
    fs.pipe("/b/index/a.txt", b"1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []
    command.run = lambda arguments: found.append(arguments.model_dir) or 0
    assert main(["search", "--model_dir", "memory://b/index"]) == 0
    assert pathlib.Path(found[0], "a.txt").read_text() == "1"
    assert fs.find("/") == ["/b/index/a.txt"]
    fs.store.clear()


def test_tensorflow_is_quiet_unless_the_user_wants_to_hear_it(command, monkeypatch):
    seen = []
    name = "TF_CPP_MIN_LOG_LEVEL"
    command.run = lambda arguments: seen.append(os.environ[name]) or 0
    monkeypatch.delenv(name, raising=False)
    main(["search", "--model_dir", "x"])
    monkeypatch.setenv(name, "0")
    main(["search", "--model_dir", "x"])
    assert seen == ["3", "0"]


class OpError(Exception):
    """Stands for TensorFlow's, so that no test here loads TensorFlow."""


class ResourceExhaustedError(OpError):
    """As `OpError`."""


for own in (OpError, ResourceExhaustedError):
    own.__module__ = "tensorflow.python.framework.errors_impl"


@pytest.mark.parametrize(
    "error, expected",
    [
        (
            InputError("`k` must be >= 1,\n received 0; raise it."),
            "`k` must be >= 1",
        ),
        (OSError(errno.ENOSPC, "No space left", "/run/a"), "No space left on the disk"),
        (OSError("Can't write data (No space left on device)"), "No space left on the"),
        (OSError(errno.EDQUOT, "Quota exceeded", "a"), "No space left on the disk: a"),
        (ResourceExhaustedError("No space left on device"), "No space left on the d"),
        (
            ResourceExhaustedError("OOM when allocating"),
            "Out of memory (OOM when allocating). Use a smaller batch",
        ),
        (
            OSError(errno.EFBIG, "File too large"),
            "File too large for this disk or process. Write to",
        ),
        (OpError("part-0; File too large [Op:SaveV2]"), "File too large for this d"),
        (MemoryError(), "Out of memory. Use a smaller batch"),
        (
            PermissionError(errno.EACCES, "Denied", b"/r"),
            "Permission denied: /r. Change the permissions",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "a.csv"),
            "No such file: a.csv",
        ),
        (OSError("cannot identify image file"), "cannot identify image file"),
        (KeyboardInterrupt(), "Interrupted."),
    ],
)
def test_expected_failures_take_one_line(command, capsys, error, expected):
    code, message = run_failing(command, error, capsys)
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert message.startswith(f"align-keras search: error: {expected}")
    assert message.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("x")])
def test_a_bug_takes_one_line_and_keeps_its_traceback(
    command, capsys, tmp_path, monkeypatch, error
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, message = run_failing(command, error, capsys)
    assert code == 1 and message.count("\n") == 1
    kind = type(error).__name__
    assert f"error: Unexpected {kind}: " in message and "cli/main.py, line" in message
    (log,) = tmp_path.iterdir()
    assert str(log) in message
    kept = log.read_text()
    assert kept.startswith("Traceback") and "run(arguments)" in kept and kind in kept
    assert describe_error(error) is None


def test_a_bugs_traceback_is_printed_where_no_file_can_be(command, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc/nothing")
    code, message = run_failing(command, ValueError("a bug"), capsys)
    assert code == 1 and "Traceback (most recent call last)" in message


def test_a_damaged_file_is_told_in_one_line():
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
def test_a_lost_process_of_a_run_is_described(workers, is_described, monkeypatch):
    class DeadlineExceededError(Exception):
        __module__ = "tensorflow.python.framework.errors_impl"

    config = {} if workers is None else {"cluster": {"worker": workers}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    text = "Collective ops is aborted by: Deadline Exceeded"
    line = describe_error(DeadlineExceededError(text)) or ""
    rule = "Another process of this run has ended or cannot be reached (Collective"
    assert line.startswith(rule) == is_described


def test_another_librarys_exhaustion_is_a_bug():
    class ResourceExhaustedError(Exception):
        pass

    assert describe_error(ResourceExhaustedError("no space left")) is None


# Takes seconds each.
HEAVY = """
import sys
for name in ("tensorflow", "keras", "tensorflow_datasets", "scipy", "torch"):
    sys.modules[name] = None  # Its import fails.
from align_keras.cli.main import main
sys.exit(main())
"""


def align_keras(*arguments, heavy=True, **keywords):
    start = ["-m", "align_keras.cli.main"] if heavy else ["-c", HEAVY]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        **keywords,
    )


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["--help"], 0),
        (["--version"], 0),
        (["serach"], 2),
        (["search", "--modeldir", "x"], 2),
        *[([name, "--help"], 0) for name in COMMANDS],
        (["train", "--experiment", "no_such", "--model_dir", "run"], 1),
    ],
)
def test_answers_before_anything_heavy_is_imported(arguments, code, tmp_path):
    answer = align_keras(*arguments, cwd=tmp_path, heavy=False)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    assert list(tmp_path.iterdir()) == []


# A subcommand of its own, so that a real process is tried without TensorFlow.
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
sys.exit(main(["search"]))
"""


def test_a_reader_that_left_is_no_error():
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


def test_a_reader_that_left_before_the_last_line_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body="print('short')")],
        cwd=ROOT,
        # So that the line waits in the buffer until the end.
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (1, "")


def test_a_closed_stdout_is_no_error(tmp_path):
    # What is opened next would become stdout, and end with what is printed.
    body = "file = open('kept', 'w'); print('printed', flush=True); file.write('x')"
    script = f"{sys.executable} -c {shlex.quote(SCRIPT.format(body=body))} >&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    )
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert (tmp_path / "kept").read_text() == "x"


def test_json_stays_json_where_stdout_is_ascii():
    body = "import json; print(json.dumps('é € 😀 \\udc80', ensure_ascii=False))"
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert json.loads(answer.stdout.decode("ascii")) == "é € 😀 \udc80"


def test_an_interrupt_takes_one_line():
    # A background job's children inherit an ignored SIGINT; a terminal's don't.
    body = (
        "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler);"
        " signal.raise_signal(signal.SIGINT); time.sleep(9)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 130
    assert answer.stderr == "align-keras search: error: Interrupted.\n"


def test_every_command_has_its_module():
    for name in COMMANDS:
        module = main_module.importlib.import_module(f"align_keras.cli.{name}")
        assert callable(module.add_arguments) and callable(module.run)


def test_a_runs_recalls_fit_a_terminal(capsys, monkeypatch):
    from align_keras.cli.train import print_metrics

    monkeypatch.setenv("COLUMNS", "80")
    metrics = {
        f"{way}/{name}": value
        for way in ("t2i", "i2t")
        for name, value in (
            ("recall_at_10", 0.123),
            ("chance_recall_at_10", 0.0004),
            ("queries", 125_000.0),
            ("candidates", 1_025_000.0),
        )
    }
    print_metrics(metrics)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (row, _) = [line for line in lines if "text → image" in line or "image →" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[1:] == ["10", "12.3", "0.04", "308", "125,000", "1,025,000"]
