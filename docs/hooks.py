"""Generates pages from the package: API, command line, options and experiments."""

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

import public_api  # noqa: E402

from align_keras.cli import main  # noqa: E402

OPTIONS_MARKER = re.compile(
    r"<!-- options (?P<file>\w+) (?P<section>[\w.]+)(?: unlike (?P<other>[\w.]+))? -->"
)
# Words without spaces at which a browser may wrap a line. Words of more than 36
# characters must wrap on phones.
BREAKING_WORD = re.compile(r"(?<!\S)(?=\S{1,36}(?!\S))\S*[-/\[]\S*")
# Characters. Cells with more text need a minimum width in tables that scroll.
MIN_PROSE = 16
# On pages that open from a disk, the feature navigation.instant stops the other scripts
# of the theme. The pages then have no copy buttons, and the keyboard scrolls no table.
WITHOUT_INSTANT = """<script>
if (location.protocol === "file:") {
  const config = document.getElementById("__config");
  config.textContent = config.textContent.replaceAll('"navigation.instant', '"none');
}
</script>"""
# Metadata of a reference page. Its many headings must not hide the guides in a search.
REFERENCE = "---\nsearch: {boost: 0.3}\n---\n"
# Signs of the bounds of a number, by their keywords in JSON Schema.
SIGNS = {
    "minimum": "≥",
    "exclusiveMinimum": "&gt;",
    "maximum": "≤",
    "exclusiveMaximum": "&lt;",
}


def on_files(files, config):
    """Adds the generated pages, and `llms.txt` in their order."""
    pages = {
        "reference/command_line.md": command_line(),
        "reference/experiments.md": experiments(),
        "llms.txt": llms(config["nav"]),
    }
    for name, text in pages.items():
        placeholder = files.get_file_from_path(name)
        if placeholder is not None:
            # GitHub shows this page, and the site the generated one.
            files.remove(placeholder)
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Adds the API entries, the option tables and the recorded benchmarks."""
    if page.file.src_uri.startswith("reference/api/"):
        return api(markdown)
    if page.file.src_uri == "reference/configuration.md":
        return OPTIONS_MARKER.sub(options_table, markdown)
    if page.file.src_uri != "benchmarks.md":
        return markdown
    markers = re.findall(r"<!-- benchmark (\w+) -->", markdown)
    records = {path.stem for path in (ROOT / "docs" / "benchmarks").glob("*.json")}
    if sorted(markers) != sorted(records):
        names = ", ".join(sorted(records.symmetric_difference(markers)) or markers)
        raise PluginError(
            "benchmarks.md must have one marker <!-- benchmark NAME --> for each file "
            f"of docs/benchmarks. Check the markers and files of: {names}."
        )
    return re.sub(
        r"<!-- benchmark (\w+) -->", lambda marker: benchmark(marker[1]), markdown
    )


def on_page_content(html, page, config, files):
    """Keeps the words of code together, and marks the cells with prose."""
    html = re.sub("<code[^>]*>.*?</code>", keep_words, html, flags=re.DOTALL)
    return re.sub("<td>(.*?)</td>", mark_prose, html, flags=re.DOTALL)


def keep_words(code):
    """Returns code whose words do not wrap at hyphens, slashes and brackets."""
    return re.sub(
        r"(?<=>)[^<]+",
        lambda text: BREAKING_WORD.sub(r'<span class="word">\g<0></span>', text[0]),
        code[0],
    )


def mark_prose(table_cell):
    """Returns a table cell, with the class `prose` if it has several words of text."""
    text = re.sub("<code[^>]*>.*?</code>|<[^>]*>", "", table_cell[1], flags=re.DOTALL)
    if len(text.strip()) < MIN_PROSE:
        return table_cell[0]
    return f'<td class="prose">{table_cell[1]}</td>'


def on_post_page(output, page, config):
    """Adds two names for screen readers, and repairs pages that open from a disk."""
    for role, name in (("dialog", "Search"), ("progressbar", "Loading")):
        output = output.replace(f'role="{role}"', f'role="{role}" aria-label="{name}"')
    return re.sub(
        '<script id="__config".*?</script>',
        lambda config_element: config_element[0] + WITHOUT_INSTANT,
        output,
        flags=re.DOTALL,
    )


def benchmark(name):
    """Returns a recorded benchmark as Markdown, with tables as they were printed."""
    path = ROOT / "docs" / "benchmarks" / f"{name}.json"
    record = json.loads(path.read_text("utf-8"))
    machine = ", ".join(f"{key}: {text}" for key, text in record["machine"].items())
    command = f"`{record['command']}`"
    if "commit" in record:
        # Later commits do not contain the script.
        command += f" of commit {record['commit']}"
    parts = [f"{command}, {record['date']}. {machine}."]
    lines = record["output"].strip("\n").split("\n")
    for is_table, group in itertools.groupby(lines, lambda line: line.startswith("|")):
        text = "\n".join(group).strip("\n")
        # A blank line separates a table from the head of the next one.
        text = re.sub(r"\n(\|.*\n\|[-|]+\n)", r"\n\n\1", text)
        if text:
            parts.append(text if is_table else f"```text\n{text}\n```")
    return "\n\n".join(parts)


def api(markdown):
    """Replaces the imports of a page by tables, and adds the entries of all names."""
    check_api_names()
    entries = [
        f"::: {public_api.home_of(package, name)}\n"
        for package, name in public_api.imported_names(markdown)
    ]
    text = public_api.IMPORTS.sub(summary_table, markdown)
    return "\n".join([text, "## Entries", "", *entries])


def summary_table(imports):
    """Returns a table of the imported names with links to their entries."""
    rows = ["| name | description |", "|---|---|"]
    for package, name in public_api.imported_names(imports[0]):
        # A long name wraps at its dots.
        path = ".<wbr>".join(public_api.module_of(package).split(".") + [name])
        home = public_api.home_of(package, name)
        summary = cell(public_api.summary_of(package, name))
        rows.append(f"| [<code>{path}</code>](#{home}) | {summary} |")
    return "\n".join(rows)


def check_api_names():
    """Raises PluginError unless the API reference has each public name once."""
    missing, repeated = public_api.wrong_names()
    if missing or repeated:
        raise PluginError(
            "docs/pages/reference/api must import each public name once. Received: "
            f"missing={missing}, repeated={repeated}. Add or remove these names."
        )


def command_line():
    parts = [
        REFERENCE,
        "# Command line",
        "This page lists the options of every command. You see the same text with "
        "`--help`.",
        "",
    ]
    for command in main.COMMANDS:
        help_text = help_of(command)
        parts += [f"## align-keras {command}", f"```text\n{help_text}```", ""]
        for nested in re.findall(r"^    (\w+)  ", help_text, re.M):
            parts += [f"### align-keras {command} {nested}"]
            parts += [f"```text\n{help_of(command, nested)}```", ""]
    return "\n".join(parts)


def help_of(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main.parse_arguments([*words, "--help"])
    return out.getvalue()


def options_table(marker):
    """Returns the table of options for a marker of the page on configuration.

    A marker is `<!-- options FILE SECTION -->`, with a file of `experiments/schema` and
    a dotted section or `.`. With `unlike SECTION`, the table has only the options whose
    defaults differ from those of that section.
    """
    schema = read_schema(marker["file"])
    options = section_options(schema, marker["section"])
    if marker["other"]:
        other_options = section_options(schema, marker["other"])
        options = {
            name: option
            for name, option in options.items()
            if option["default"] != other_options[name]["default"]
        }
    rows = ["| option | default | description |", "|---|---|---|"]
    for name, option in options.items():
        default = cell(json.dumps(option["default"]))
        description = (
            f"{cell(option['description'])} *Values:* {allowed_values(option)}"
        )
        # A recipe of an evaluation is not resumed with other options.
        if option.get("changeable") and marker["file"] == "experiment":
            description += ". *Changeable.*"
        rows.append(f"| `{name}` | `{default}` | {description} |")
    return "\n".join(rows)


def read_schema(name):
    path = ROOT / "experiments" / "schema" / f"{name}.json"
    return json.loads(path.read_text("utf-8"))


def section_options(schema, section):
    """Returns the options of a section by name, without its subsections."""
    definition = schema
    changeable = {}
    for name in section.split(".") if section != "." else ():
        subsection = definition["properties"][name]
        if "changeable" in subsection:
            changeable = {"changeable": subsection["changeable"]}
        definition = schema["$defs"][subsection["$ref"].removeprefix("#/$defs/")]
    return {
        name: option | changeable
        for name, option in definition["properties"].items()
        if "$ref" not in option
    }


def allowed_values(option):
    """Returns the type, the range and the choices of an option as Markdown."""
    if "anyOf" in option:
        members = [allowed_values(member) for member in option["anyOf"]]
        return " or ".join(dict.fromkeys(members))
    if "$ref" in option:
        return "mapping"
    if "const" in option:
        return f"`{option['const']}`"
    if "enum" in option:
        return ", ".join(f"`{value}`" for value in option["enum"])
    if option["type"] == "array":
        return f"list of {allowed_values(option['items'])}"
    if option["type"] == "boolean":
        return "`true` or `false`"
    bounds = [f"{sign} {option[key]}" for key, sign in SIGNS.items() if key in option]
    return " ".join([option["type"], " and ".join(bounds)]).strip()


def cell(text):
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def experiments():
    parts = [
        REFERENCE,
        "# Experiments",
        "This page lists the files in `experiments/` with their commands, hardware, "
        "duration and expected metrics. Each header starts with the command to run.",
        "",
    ]
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
    """Returns a list of the pages in the format of llmstxt.org."""
    lines = [
        "# align-keras",
        "",
        "> ALIGN (Jia et al. 2021) in Keras 3 and TensorFlow.",
    ]
    for entry in nav:
        if isinstance(entry, dict):
            [(title, entries)] = entry.items()
            lines += ["", f"## {title}", "", *map(link, pages_of(entries))]
        else:
            lines.append(link(entry))
    return "\n".join(lines) + "\n"


def pages_of(entries):
    """Returns the pages of a section of the navigation and of its subsections."""
    pages = []
    for entry in entries:
        if isinstance(entry, dict):
            [subentries] = entry.values()
            pages += pages_of(subentries)
        else:
            pages.append(entry)
    return pages


def link(page):
    name = page.removesuffix(".md")
    title = name
    path = ROOT / "docs" / "pages" / page
    if path.is_file():
        title = re.search("^# (.+)$", path.read_text("utf-8"), re.M)[1]
    return f"- [{title}]({name}.html)"
