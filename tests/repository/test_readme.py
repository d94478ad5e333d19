"""Commands, flags, paths and extras in README and the documentation's pages exist.

Nothing here imports TensorFlow.
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
# Of pip, docker, http.server, npm, ruff and mkdocs, whose commands stand there too.
FOREIGN = {"--directory", "--bind", "--file", "--wait", "--no-deps", "--captions"}
FOREIGN |= {"--use-pep517", "--check", "--strict", "--config-file"}
FOREIGN |= {"--print-completion"}  # Of no command.
FOREIGN |= {"--resize_mode", "--resize_only_if_bigger", "--skip_reencode"}
FOREIGN |= {"--head", "--address", "--nworkers", "--nthreads"}  # Of Ray and Dask.


def block_lines():
    """Each line of the code blocks that aren't Python, continuations joined."""
    blocks = [text for language, text in FENCE.findall(README) if not language]
    text = "\n".join(blocks).replace("\\\n", " ")
    parts = [part for line in text.split("\n") for part in re.split("&&|; ", line)]
    return [re.sub(r"\s+#.*$", "", part).strip() for part in parts if part.strip()]


def inline_codes():
    """Each `inline code`, line breaks as blanks."""
    return [" ".join(own.split()) for own in re.findall("`([^`]+)`", prose())]


def prose():
    return FENCE.sub("", README)


def commands(start):
    return [own for own in block_lines() if re.match(rf"{start}\b", own)]


ALIGN_LINES = commands("align-keras")
ALIGN_INLINE = [own for own in inline_codes() if own.startswith("align-keras ")]
CODES = [*block_lines(), *inline_codes()]


def words(line):
    """The command's words: optional parts are given, the first of `a|b` is taken."""
    return [own.partition("|")[0] for own in shlex.split(re.sub(r"[\[\]]", "", line))]


@pytest.mark.parametrize("line", sorted(set(ALIGN_LINES)))
def test_a_command_line_is_parsed(line):
    parsed = parse_arguments(words(line)[1:])
    assert parsed.command in COMMANDS


@pytest.mark.parametrize("line", sorted(set(ALIGN_INLINE)))
def test_an_inline_commands_flags_exist(line):
    command, *rest = words(line)[1:]
    assert command in COMMANDS
    known = options_of(command)
    assert {own.partition("=")[0] for own in rest if own.startswith("--")} <= known


def options_of(command):
    """The long options that a command's help names, or that of its nested commands."""
    shown = help_of(command)
    for nested in re.findall(r"^    (\w+)  ", shown, re.MULTILINE):
        shown += help_of(command, nested)
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", shown))


def help_of(*names):
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        parse_arguments([*names, "--help"])
    return out.getvalue()


def test_each_flag_in_prose_is_some_commands_or_tools():
    known = FOREIGN.union(*map(options_of, COMMANDS))
    known.update(*(tool_flags(path) for path in (ROOT / "tools").rglob("*.*")))
    named = {own for code in inline_codes() for own in flags(code)}
    assert len(named) > 15
    assert named <= known


def flags(code):
    return re.findall(r"(?<![\w-])--[a-z][\w-]*", code)


def tool_flags(path):
    """The options that a tool's source adds, or reads."""
    text = path.read_text(encoding="utf-8")
    return set(re.findall(r"""["'\s(](--[a-z][\w-]*)""", text))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_its_python_is_python(path):
    for language, code in FENCE.findall(path.read_text(encoding="utf-8")):
        if language == "python" and "--8<--" not in code:
            ast.parse(code)


TOOLS = sorted({own for own in CODES if re.match(r"python tools/|tools/\w", own)})


@pytest.mark.parametrize("line", TOOLS)
def test_a_tools_flags_exist(line):
    path = next(own for own in words(line) if own.startswith("tools/"))
    assert (ROOT / path).is_file()
    assert set(flags(line)) <= tool_flags(ROOT / path)


PREFIXES = "align_keras|experiments|tests|tools|docs"
PATHS = re.compile(rf"(?<![\w/.-])(?:{PREFIXES})/[\w/.*$-]+")


@pytest.mark.parametrize("path", sorted(set(PATHS.findall(README))))
def test_a_path_is_there(path):
    if "$" in path:  # A loop's variable.
        path = path[: path.index("$")] + "*"
    path = path.rstrip(".")
    assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("name", sorted(set(re.findall(r"--experiment (\w+)", README))))
def test_an_experiment_is_there(name):
    assert (ROOT / "experiments" / f"{name}.yaml").is_file()


def test_the_markers_exist():
    markers = setup_cfg()["tool:pytest"]["markers"]
    named = set(re.findall(r"pytest[^`]*? -m (\w+)", " ".join(README.split())))
    assert named
    assert named <= set(re.findall(r"^(\w+):", markers, re.MULTILINE))


def test_the_guide_has_the_table_of_protocols():
    """As their records have it; where it fails, the row that it shows is copied."""
    guide = (ROOT / "docs/pages/guides/evaluate.md").read_text(encoding="utf-8")
    for one in PROTOCOLS.values():
        data = f"{one.data_help} (default `{one.data}`)" if one.data else one.data_help
        cells = [one.table or "–", f"`{one.name}`", one.help, data]
        cells = [cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells]
        assert f"| {' | '.join(cells)} |\n" in guide


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_extras_exist():
    named = re.findall(r"-e \"\.\[([\w,-]+)\]\"", README)
    assert len(named) >= 5
    extras = set(setup_cfg()["options.extras_require"])
    assert {own for text in named for own in text.split(",")} <= extras


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"align_keras\.(\w+(?:\.\w+)?)", README)))
)
def test_a_name_of_the_package_is_there(name):
    """A public name, a module, or a name that its module's source holds."""
    first, _, second = name.partition(".")
    folder = ROOT / "align_keras" / first
    assert first in align_keras.__all__ or folder.is_dir()
    if second and folder.is_dir() and not (folder / f"{second}.py").is_file():
        source = (folder / "__init__.py").read_text(encoding="utf-8")
        assert re.search(rf"\b{second.rstrip('_')}", source)


def overrides():
    """Each dotted option that README sets, or names in code."""
    roots = r"(?:task|trainer|runtime|losses)"
    return sorted(set(re.findall(rf"\b({roots}\.[a-z_]+(?:\.[a-z_]+)*)", README)))


@pytest.mark.parametrize("option", overrides())
def test_an_option_is_in_the_configuration(option):
    value = load_config("quickstart_icons")
    for name in option.split("."):
        names = {field.name for field in dataclasses.fields(value)}
        assert name in names, f"{name} of {option}: {sorted(names)}"
        value = getattr(value, name)
