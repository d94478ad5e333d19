"""Commands, flags, paths and extras in README and the documentation exist.

This module does not import TensorFlow.
"""

import ast
import configparser
import contextlib
import dataclasses
import io
import pathlib
import re
import shlex

import pytest

import align_keras
from align_keras.cli.main import COMMANDS, parse_arguments
from align_keras.config import load_config
from align_keras.protocols.run_protocol import PROTOCOLS

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md"]
PAGES += sorted((ROOT / "docs" / "pages").rglob("*.md"))
README = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Flags of other programs on the pages: pip, docker, http.server, npm, ruff, mkdocs.
FOREIGN = {"--directory", "--bind", "--file", "--wait", "--no-deps", "--captions"}
FOREIGN |= {"--use-pep517", "--check", "--strict", "--config-file"}
# A flag of `align-keras` itself, which belongs to no subcommand.
FOREIGN |= {"--print-completion"}
# Flags of img2dataset.
FOREIGN |= {"--resize_mode", "--resize_only_if_bigger", "--skip_reencode"}
# Flags of Ray and Dask.
FOREIGN |= {"--head", "--address", "--nworkers", "--nthreads"}


def block_lines():
    """Returns the commands in code blocks without a language.

    Continuation lines are joined.
    """
    blocks = [text for language, text in FENCE.findall(README) if not language]
    text = "\n".join(blocks).replace("\\\n", " ")
    parts = [part for line in text.split("\n") for part in re.split("&&|; ", line)]
    return [re.sub(r"\s+#.*$", "", part).strip() for part in parts if part.strip()]


def inline_codes():
    """Returns all `inline code`, with spaces instead of line breaks."""
    return [" ".join(code.split()) for code in re.findall("`([^`]+)`", prose())]


def prose():
    """Returns the text of the pages without code blocks."""
    return FENCE.sub("", README)


def commands(program):
    """Returns the commands in code blocks that call a program."""
    return [line for line in block_lines() if re.match(rf"{program}\b", line)]


ALIGN_LINES = commands("align-keras")
ALIGN_INLINE = [code for code in inline_codes() if code.startswith("align-keras ")]
CODES = [*block_lines(), *inline_codes()]


def words(line):
    """Returns the words of a command.

    Optional parts are included, and `a|b` becomes `a`.
    """
    return [word.partition("|")[0] for word in shlex.split(re.sub(r"[\[\]]", "", line))]


@pytest.mark.parametrize("line", sorted(set(ALIGN_LINES)))
def test_a_command_in_a_block_is_parsed(line):
    parsed = parse_arguments(words(line)[1:])
    assert parsed.command in COMMANDS


@pytest.mark.parametrize("line", sorted(set(ALIGN_INLINE)))
def test_flags_of_an_inline_command_exist(line):
    command, *arguments = words(line)[1:]
    assert command in COMMANDS
    named_flags = {
        word.partition("=")[0] for word in arguments if word.startswith("--")
    }
    assert named_flags <= options_of(command)


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
        existing_flags |= tool_flags(path)
    named_flags = {flag for code in inline_codes() for flag in flags(code)}
    assert len(named_flags) > 15
    assert named_flags <= existing_flags


def flags(code):
    """Returns the long options in a command."""
    return re.findall(r"(?<![\w-])--[a-z][\w-]*", code)


def tool_flags(path):
    """Returns the options in the source of a tool."""
    text = path.read_text(encoding="utf-8")
    return set(re.findall(r"""["'\s(](--[a-z][\w-]*)""", text))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_python_blocks_are_valid(path):
    for language, code in FENCE.findall(path.read_text(encoding="utf-8")):
        if language == "python" and "--8<--" not in code:
            ast.parse(code)


TOOLS = sorted({code for code in CODES if re.match(r"python tools/|tools/\w", code)})


@pytest.mark.parametrize("line", TOOLS)
def test_flags_of_a_tool_exist(line):
    path = next(word for word in words(line) if word.startswith("tools/"))
    assert (ROOT / path).is_file()
    assert set(flags(line)) <= tool_flags(ROOT / path)


PREFIXES = "align_keras|experiments|tests|tools|docs"
PATHS = re.compile(rf"(?<![\w/.-])(?:{PREFIXES})/[\w/.*$-]+")


@pytest.mark.parametrize("path", sorted(set(PATHS.findall(README))))
def test_a_path_on_the_pages_exists(path):
    if "$" in path:
        # The variable of a loop can have any value.
        path = path[: path.index("$")] + "*"
    path = path.rstrip(".")
    assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("name", sorted(set(re.findall(r"--experiment (\w+)", README))))
def test_an_experiment_exists(name):
    assert (ROOT / "experiments" / f"{name}.yaml").is_file()


def test_pytest_markers_in_commands_exist():
    markers = setup_cfg()["tool:pytest"]["markers"]
    named_markers = set(re.findall(r"pytest[^`]*? -m (\w+)", " ".join(README.split())))
    assert named_markers
    assert named_markers <= set(re.findall(r"^(\w+):", markers, re.MULTILINE))


def test_the_guide_has_the_table_of_protocols():
    """Copy the row in the failure message to the guide if a protocol changes."""
    guide = (ROOT / "docs/pages/guides/evaluate.md").read_text(encoding="utf-8")
    for protocol in PROTOCOLS.values():
        data = protocol.data_help
        if protocol.data:
            data += f" (default `{protocol.data}`)"
        cells = [protocol.table or "–", f"`{protocol.name}`", protocol.help, data]
        cells = [cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells]
        assert f"| {' | '.join(cells)} |\n" in guide


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_extras_in_install_commands_exist():
    installed_extras = re.findall(r"-e \"\.\[([\w,-]+)\]\"", README)
    assert len(installed_extras) >= 5
    extras = set(setup_cfg()["options.extras_require"])
    assert {name for text in installed_extras for name in text.split(",")} <= extras


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"align_keras\.(\w+(?:\.\w+)?)", README)))
)
def test_a_name_of_the_package_exists(name):
    """The name is public, a module, or a name in the source of its package."""
    first, _, second = name.partition(".")
    folder = ROOT / "align_keras" / first
    assert first in align_keras.__all__ or folder.is_dir()
    if second and folder.is_dir() and not (folder / f"{second}.py").is_file():
        source = (folder / "__init__.py").read_text(encoding="utf-8")
        assert re.search(rf"\b{second.rstrip('_')}", source)


def overrides():
    """Returns the dotted names of options on the pages."""
    roots = r"(?:task|trainer|runtime|losses)"
    return sorted(set(re.findall(rf"\b({roots}\.[a-z_]+(?:\.[a-z_]+)*)", README)))


@pytest.mark.parametrize("option", overrides())
def test_an_option_of_the_configuration_exists(option):
    value = load_config("quickstart_icons")
    for name in option.split("."):
        names = {field.name for field in dataclasses.fields(value)}
        assert name in names, f"{name} of {option}: {sorted(names)}"
        value = getattr(value, name)
