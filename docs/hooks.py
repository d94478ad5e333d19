"""Pages that are made of the package: its names, commands, options and experiments."""

import contextlib
import io
import itertools
import json
import os
import pathlib
import re
import sys

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / "docs"))
# Help is as wide as its box.
os.environ["COLUMNS"] = "88"

import api_tasks  # noqa: E402

import align_keras  # noqa: E402
from align_keras.cli import main  # noqa: E402

# Packages that users import from, next to align_keras itself.
PACKAGES = (
    "models",
    "embedders",
    "losses",
    "optimizers",
    "layers",
    "search",
    "evaluation",
    "planning",
)


def on_files(files, config):
    """Adds the generated pages, and `llms.txt` in their order."""
    pages = {
        "reference/api.md": api(),
        "reference/command_line.md": command_line(),
        "reference/configuration.md": configuration(),
        "reference/experiments.md": experiments(),
        "llms.txt": llms(config["nav"]),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Puts each recorded benchmark where the page of benchmarks asks for it."""
    if page.file.src_uri != "benchmarks.md":
        return markdown
    asked = re.findall(r"<!-- benchmark (\w+) -->", markdown)
    recorded = {path.stem for path in (ROOT / "docs" / "benchmarks").glob("*.json")}
    if sorted(asked) != sorted(recorded):
        differ = ", ".join(sorted(recorded.symmetric_difference(asked)) or asked)
        raise PluginError(
            "benchmarks.md must ask once for each file of docs/benchmarks, by <!-- "
            f"benchmark NAME -->; see {differ}."
        )
    return re.sub(r"<!-- benchmark (\w+) -->", lambda ask: benchmark(ask[1]), markdown)


def benchmark(name):
    """Returns a recorded benchmark as Markdown, with tables as they were printed."""
    path = ROOT / "docs" / "benchmarks" / f"{name}.json"
    record = json.loads(path.read_text("utf-8"))
    about = "; ".join(f"{key}: {text}" for key, text in record["machine"].items())
    parts = [f"`{record['command']}`, {record['date']}. {about}."]
    lines = record["output"].strip("\n").split("\n")
    for is_table, group in itertools.groupby(lines, lambda line: line.startswith("|")):
        text = "\n".join(group).strip("\n")
        # A blank line ends a table before another's head.
        text = re.sub(r"\n(\|.*\n\|[-|]+\n)", r"\n\n\1", text)
        if text:
            parts.append(text if is_table else f"```text\n{text}\n```")
    return "\n\n".join(parts)


def api():
    """Returns the API page: its introduction, then the names of each task."""
    parts = [(ROOT / "docs" / "api_introduction.md").read_text("utf-8")]
    listed_names = []
    for heading, introduction, packages in api_tasks.TASKS:
        parts += [f"## {heading}", "", introduction, "", "```python"]
        entries = []
        for package, names in packages.items():
            module = f"align_keras.{package}" if package else "align_keras"
            for name in names:
                listed_names.append(name)
                source = module if package else align_keras._PUBLIC[name]
                parts.append(f"from {module} import {name}")
                entries.append(f"::: {home_of(source, name)}\n")
        parts += ["```", "", *entries]
    check_api_names(listed_names)
    return "\n".join(parts)


def check_api_names(listed_names):
    """Raises PluginError unless the API page has each public name once."""
    public = set(align_keras._PUBLIC).union(*map(public_names, PACKAGES))
    missing = sorted(public.difference(listed_names))
    repeated = sorted({name for name in listed_names if listed_names.count(name) > 1})
    if missing or repeated:
        raise PluginError(
            "docs/api_tasks.py must list each public name once. Received: "
            f"missing={missing}, repeated={repeated}. Add or remove these names."
        )


def home_of(module, name):
    """Where a name is defined that a module gives, by the sources alone."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    source = path.read_text("utf-8")
    if re.search(rf"^(class|def) {name}\b|^{name}\b.* = ", source, re.M):
        return f"{module}.{name}"
    lazy = re.search(rf'"{name}": "([\w.]+)"', source)
    eager = re.search(rf"from ([\w.]+) import (\([^)]*\b{name}\b|.*\b{name}\b)", source)
    if lazy or eager:
        return home_of((lazy or eager)[1], name)
    # The package's __getattr__ gives the name.
    for file in sorted(path.parent.glob("*.py")):
        if re.search(rf"^(class|def) {name}\b", file.read_text("utf-8"), re.M):
            return f"{module}.{file.stem}.{name}"
    raise LookupError(f"{module} gives no {name}")


def public_names(package):
    """Returns the functions and classes of a package's `__init__.py`, no constants."""
    source = (ROOT / "align_keras" / package / "__init__.py").read_text("utf-8")
    lazy = re.search(r"^_PUBLIC = {(.*?)^}", source, re.M | re.S)
    if lazy:
        return sorted(re.findall(r'"(\w+)":', lazy[1]))
    found = re.findall(r"^from [\w.]+ import (\([^)]*\)|.+)$", source, re.M)
    names = {name for part in found for name in re.findall(r"\w+", part)}
    return sorted(name for name in names if not name.isupper())


def command_line():
    parts = ["# Command line", "Each command's `--help`.", ""]
    for command in main.COMMANDS:
        shown = help_of(command)
        parts += [f"## align-keras {command}", f"```text\n{shown}```", ""]
        for nested in re.findall(r"^    (\w+)  ", shown, re.M):
            parts += [f"### align-keras {command} {nested}"]
            parts += [f"```text\n{help_of(command, nested)}```", ""]
    return "\n".join(parts)


def help_of(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main.parse_arguments([*words, "--help"])
    return out.getvalue()


def configuration():
    parts = [
        "# Configuration",
        "The options of the YAML files, with their defaults, by the JSON Schemas in "
        "`experiments/schema`.",
        "",
    ]
    titles = {
        "experiment": "Experiments: align-keras train",
        "evaluation": "Recipes: align-keras evaluate",
        "corpus": "Corpora: align-keras corpus",
    }
    for name, title in titles.items():
        path = ROOT / "experiments" / "schema" / f"{name}.json"
        parts += [f"## {title}", ""]
        parts += section(json.loads(path.read_text("utf-8")), "")
    return "\n".join(parts)


def section(schema, prefix):
    """A heading and a table of a section's options, then its sections'."""
    options, sections = [], []
    for name, option in schema["properties"].items():
        nested = option.get("type") == "object" and "properties" in option
        (sections if nested else options).append((name, option))
    parts = []
    if prefix:
        parts += [f"### `{prefix}`", "", schema.get("description", ""), ""]
    if options:
        parts += ["| option | default | |", "|---|---|---|"]
        for name, option in options:
            default = json.dumps(option.get("default"))
            about = cell(option.get("description", "") + choices(option))
            parts.append(f"| `{name}` | `{cell(default)}` | {about} |")
        parts.append("")
    for name, option in sections:
        parts += section(option, f"{prefix}.{name}" if prefix else name)
    return parts


def choices(option):
    values = option.get("enum", [])
    for one in option.get("anyOf", []):
        values = [*values, *one.get("enum", [])]
    return f" One of {', '.join(map(str, values))}." if values else ""


def cell(text):
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def experiments():
    parts = ["# Experiments", "Each file's header, as it stands in `experiments/`.", ""]
    for path in sorted((ROOT / "experiments").rglob("*.yaml")):
        lines = path.read_text("utf-8").splitlines()
        header = []
        for line in lines:
            if not line.startswith("#") or line.startswith("# yaml-language-server"):
                break
            header.append(line.removeprefix("#").removeprefix(" "))
        name = path.relative_to(ROOT / "experiments").as_posix()
        parts += [f"## {name}", "```text", *header, "```", ""]
    return "\n".join(parts)


def llms(nav):
    """A list of the pages, as llmstxt.org describes it."""
    lines = [
        "# align-keras",
        "",
        "> ALIGN (Jia et al. 2021) in Keras 3 and TensorFlow.",
    ]
    for entry in nav:
        if isinstance(entry, dict):
            for title, pages in entry.items():
                lines += ["", f"## {title}", ""]
                lines += [link(page) for page in pages]
        else:
            lines.append(link(entry))
    return "\n".join(lines) + "\n"


def link(page):
    return f"- [{page.removesuffix('.md')}]({page.removesuffix('.md')}.html)"
