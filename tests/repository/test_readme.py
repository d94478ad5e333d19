"""Commands, flags, paths and extras in README and the documentation exist.

This module does not import TensorFlow.
"""

import ast
import configparser
import contextlib
import functools
import io
import re
import shlex

import pytest
import yaml

from align_keras.cli.main import COMMANDS, parse_arguments
from align_keras.config import load_config
from align_keras.protocols.run_protocol import PROTOCOLS
from tests.helpers import docs_text
from tests.helpers.docs_text import PAGES, ROOT, code_blocks, read_page

# Blocks that check out another commit run its scripts.
README = re.sub(
    r"^git checkout \w+\n(?:.+\n)*?(?=```)",
    "",
    "\n".join(read_page(path) for path in PAGES),
    flags=re.MULTILINE,
)
# Flags of other programs on the pages: pip, docker, http.server, npm, ruff, mkdocs.
FOREIGN = {"--directory", "--bind", "--file", "--wait", "--no-deps", "--captions"}
FOREIGN |= {"--use-pep517", "--check", "--strict", "--config-file"}
# A flag of `align-keras` itself, which belongs to no subcommand.
FOREIGN |= {"--print-completion"}
# A flag of CLIP_benchmark.
FOREIGN |= {"--pretrained"}
# Flags of img2dataset.
FOREIGN |= {"--resize_mode", "--resize_only_if_bigger", "--skip_reencode"}
# Flags of Ray and Dask.
FOREIGN |= {"--head", "--address", "--nworkers", "--nthreads"}


def block_lines():
    """Returns the commands in code blocks without a language or for a shell.

    Continuation lines are joined.
    """
    shell = ("", "bash", "sh", "console")
    texts = [block.text for block in code_blocks(README) if block.language in shell]
    text = "\n".join(texts).replace("\\\n", " ")
    parts = re.split(r"\n|&&|; | \| ", text)
    return [re.sub(r"\s+#.*$", "", part).strip() for part in parts if part.strip()]


def commands(program):
    """Returns the commands in code blocks that call a program."""
    return [line for line in block_lines() if re.match(rf"{program}\b", line)]


INLINE_CODES = docs_text.inline_codes(README)
ALIGN_LINES = commands("align-keras")
ALIGN_INLINE = [code for code in INLINE_CODES if code.startswith("align-keras ")]
CODES = [*block_lines(), *INLINE_CODES]


def words(line):
    """Returns the words of a command.

    Optional parts are included, and `a|b` becomes `a`.
    """
    return [word.partition("|")[0] for word in shlex.split(re.sub(r"[\[\]]", "", line))]


def test_commands_in_blocks_are_parsed():
    assert len(ALIGN_LINES) > 50
    for line in ALIGN_LINES:
        if "--print-completion" in line:
            continue
        if words(line)[-1] == "--help":
            assert "usage: align-keras" in help_of(*words(line)[1:-1])
        else:
            assert parse_arguments(words(line)[1:]).command in COMMANDS


def test_the_flags_of_commands_are_in_their_help():
    for line in {*ALIGN_LINES, *ALIGN_INLINE}:
        command, *arguments = words(line)[1:]
        if command in ("--print-completion", "--version", "--help"):
            continue
        assert command in COMMANDS, line
        assert set(flags(" ".join(arguments))) <= options_of(command), line


def test_inline_commands_are_parsed(capsys):
    """They may leave out some arguments."""
    for line in ALIGN_INLINE:
        arguments = [word for word in words(line)[1:] if word not in ("…", "...")]
        try:
            parse_arguments(arguments)
        except SystemExit as error:
            message = capsys.readouterr().err
            is_short = "arguments are required" in message or "expected one" in message
            assert error.code == 0 or is_short, message


@functools.cache
def options_of(command):
    """Returns the long options in the help of a command and its subcommands."""
    help_text = help_of(command)
    for subcommand in re.findall(r"^    (\w+)  ", help_text, re.MULTILINE):
        help_text += help_of(command, subcommand)
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", help_text))


def help_of(*names):
    """Returns the help of a command or subcommand."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        parse_arguments([*names, "--help"])
    return out.getvalue()


def test_each_flag_in_prose_belongs_to_a_command_or_a_tool():
    existing_flags = FOREIGN.union(*map(options_of, COMMANDS))
    for path in (ROOT / "tools").rglob("*.*"):
        if path.suffix != ".pyc":
            existing_flags |= tool_flags(path)
    # Scripts of another commit are named without their folder.
    codes = [code for code in INLINE_CODES if not code.startswith("bench_")]
    named_flags = {flag for code in codes for flag in flags(code)}
    assert len(named_flags) > 15
    assert named_flags <= existing_flags


def flags(code):
    """Returns the long options in a command."""
    return re.findall(r"(?<![\w-])--[a-z][\w-]*", code)


def tool_flags(path):
    """Returns the options in the source of a tool."""
    text = path.read_text(encoding="utf-8")
    return set(re.findall(r"""["'\s(](--[a-z][\w-]*)""", text))


def test_python_blocks_are_valid():
    for path in PAGES:
        for language, code in code_blocks(read_page(path)):
            if language == "python" and "--8<--" not in code:
                ast.parse(code, str(path))


TOOLS = sorted({code for code in CODES if re.match(r"python tools/|tools/\w", code)})


def tool_of(line):
    """Returns the path of the tool in a command."""
    return next(word for word in words(line) if word.startswith("tools/"))


def test_flags_of_tools_exist():
    assert len(TOOLS) > 10
    for line in TOOLS:
        path = ROOT / tool_of(line)
        assert path.is_file(), line
        assert set(flags(line)) <= tool_flags(path), line


PREFIXES = "align_keras|experiments|tests|tools|docs"
PATHS = re.compile(rf"(?<![\w/.-])(?:{PREFIXES})/[\w/.*$-]+")


def test_paths_on_the_pages_exist():
    for path in set(PATHS.findall(README)):
        # The variable of a loop can have any value.
        pattern = re.sub(r"[$].*", "*", path).rstrip(".")
        assert list(ROOT.glob(pattern)), path


def test_experiments_exist():
    for name in re.findall(r"--experiment (\w+)", README):
        assert (ROOT / "experiments" / f"{name}.yaml").is_file(), name


def test_pytest_markers_in_commands_exist():
    markers = setup_cfg()["tool:pytest"]["markers"]
    named_markers = set(re.findall(r"pytest[^`]*? -m (\w+)", " ".join(README.split())))
    assert named_markers
    assert named_markers <= set(re.findall(r"^(\w+):", markers, re.MULTILINE))


def test_the_guide_has_the_table_of_protocols():
    """Copy the row in the failure message to the guide if a protocol changes."""
    guide = (ROOT / "docs/pages/guides/evaluate.md").read_text(encoding="utf-8")
    prose = " ".join(guide.split())
    for protocol in PROTOCOLS.values():
        cells = [protocol.table or "–", f"`{protocol.name}`", protocol.help]
        if protocol.data:
            cells.append(f"`{protocol.data}`")
        cells = [cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells]
        assert f"| {' | '.join(cells)} |" in guide
        # Protocols with the same data share a description below the table.
        assert protocol.data_help in prose


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_extras_in_install_commands_exist():
    installed_extras = re.findall(r"-e \"\.\[([\w,-]+)\]\"", README)
    assert len(installed_extras) >= 5
    extras = set(setup_cfg()["options.extras_require"])
    assert {name for text in installed_extras for name in text.split(",")} <= extras


def overrides():
    """Returns the dotted names of options on the pages."""
    roots = r"(?:task|trainer|runtime|losses)"
    pattern = rf"(?<!align_keras\.)\b({roots}\.[a-z_]+(?:\.[a-z_]+)*)"
    # A preset contains a file of this name.
    return sorted(set(re.findall(pattern, README)) - {"task.json"})


def test_options_of_the_configuration_exist():
    for option in overrides():
        value = load_config("quickstart_icons")
        for name in option.split("."):
            names = list(type(value).model_fields)
            assert name in names, f"{name} of {option}: {sorted(names)}"
            value = getattr(value, name)


def test_the_pages_have_the_recall_of_the_quickstart():
    """The header of the experiment has the newest measurement of the quickstart."""
    experiment = ROOT / "experiments" / "quickstart_icons.yaml"
    header = read_page(experiment)
    [recall] = re.findall(r"t2i R@10 ([\d.]+), i2t R@10 ([\d.]+)", header)
    page = read_page(docs_text.SITE / "start" / "first_training.md")
    rows = re.findall(r"^\| (?:text|image) → .*\| ([\d.]+) \|$", page, re.MULTILINE)
    assert tuple(rows) == recall
    steps = yaml.safe_load(header)["trainer"]["train_steps"]
    table = read_page(docs_text.SITE / "how" / "tried.md")
    assert f"| {steps} | {' | '.join(recall)} |" in table
