"""`align-keras evaluate`: evaluates a model with one protocol of the paper, or all."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from align_keras.cli.common import (
    add_nested_commands,
    name_addresses,
    print_json,
    print_table,
)
from align_keras.embedders.locations import MODEL_HELP
from align_keras.protocols.paper_results import paper_figures
from align_keras.protocols.protocol import OPTIONS
from align_keras.protocols.run_protocol import PROTOCOLS, check_writable, evaluate
from align_keras.protocols.suite import run_suite
from align_keras.reports import result_tables
from align_keras.utils.errors import InputError
from align_keras.utils.files import replaceable_file
from align_keras.utils.progress import say

# Options that are valid with `--suite`. All other options need a single protocol.
_SUITE_OPTIONS = (
    "data_root",
    "runtime",
    "engine",
    "workers",
    "results",
    "allow_missing",
    "html",
)
# Options that are spelled with underscores, as in TF Model Garden.
_UNDERSCORE_OPTIONS = ("config_file", "params_override")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "align-keras evaluate PROTOCOL --model M [--data D] [OPTION …]\n"
        "       align-keras evaluate --suite paper --model M [OPTION …]"
    )
    parser.epilog = (
        "Run `align-keras evaluate PROTOCOL --help` for the options of a protocol."
    )
    parser.add_argument(
        "--suite",
        choices=("paper",),
        help="run all protocols of the paper whose data is available, and print the "
        "results next to those of the paper",
    )
    _add_options(parser, _SUITE_OPTIONS)
    add_protocol = add_nested_commands(parser, "PROTOCOL", "protocols")
    for protocol in PROTOCOLS.values():
        table = f" ({protocol.table})" if protocol.table else ""
        protocol_parser = add_protocol(protocol.name, protocol.help + table)
        options = ["html", *(name for name in OPTIONS if protocol.takes(name))]
        default = f" (default: {protocol.data})" if protocol.data else ""
        _add_options(protocol_parser, options, protocol.data_help + default)


def _add_options(
    parser: argparse.ArgumentParser,
    visible: Sequence[str],
    data_help: str = argparse.SUPPRESS,
) -> None:
    """Adds the options of all protocols to a parser.

    The parser accepts every option, so that `run` can explain in its error why an
    option does not apply.

    Args:
        parser: parser of the command or of one protocol.
        visible: names of the options that the help lists.
        data_help: help of --data.
    """
    parser.add_argument(
        "--model",
        metavar="M",
        help=MODEL_HELP,
    )
    settings: dict[str, Mapping[str, Any]] = {
        name: option.metadata for name, option in OPTIONS.items()
    }
    settings["html"] = {
        "metavar": "FILE",
        "help": "HTML page to which the results are written",
    }
    for name, option_settings in settings.items():
        keywords = {"default": parser.argument_default, "dest": name, **option_settings}
        if name == "data":
            keywords["help"] = data_help
        if name not in visible:
            keywords["help"] = argparse.SUPPRESS
        spelling = name if name in _UNDERSCORE_OPTIONS else name.replace("_", "-")
        parser.add_argument(f"--{spelling}", **keywords)
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="folder of cached embeddings (default: align_keras/embeddings in the "
        "user's cache folder)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON instead of tables"
    )


def run(arguments: argparse.Namespace) -> int:
    names = (*OPTIONS, "html", "cache")
    values = {name: getattr(arguments, name) for name in names}
    options = {name: value for name, value in values.items() if value is not None}
    if not arguments.model:
        raise InputError(
            f"`model` must be set. Received: model={arguments.model!r}. Pass a model, "
            "such as a run folder."
        )
    if arguments.suite:
        names_of_suite = (*_SUITE_OPTIONS, "cache")
        excluded = [f"`{name}`" for name in options if name not in names_of_suite]
        if arguments.nested:
            excluded.insert(0, arguments.nested)
        if excluded:
            raise InputError(
                "`suite` cannot be used with PROTOCOL or with options of a single "
                f"protocol. Received: {excluded[0]}. Leave it or `suite` out."
            )
        return _run_suite(arguments, options)
    if arguments.nested is None:
        raise InputError(
            "PROTOCOL or --suite paper must be set. Received: no protocol and no "
            "suite. For example, run `align-keras evaluate retrieval`."
        )
    result = evaluate(arguments.model, arguments.nested, **options)
    print_result(result, arguments.json)
    return 0


def _run_suite(arguments: argparse.Namespace, options: dict[str, Any]) -> int:
    """Runs the suite, and returns 1 if a protocol with available data failed."""
    html = options.pop("html", None)
    if html is not None:
        check_writable(replaceable_file(html, "html").absolute().parent)
    rows = print_suite(run_suite(arguments.model, **options), arguments.json)
    if html is not None:
        from align_keras.reports.result_page import write_suite_page

        page_rows = [
            row.as_dict() | {"figures": paper_figures(row.protocol, row.data)}
            for row in rows
        ]
        write_suite_page(html, arguments.model, page_rows)
        say(f"wrote {name_addresses(html, arguments)}")
    return int(any(row.failed for row in rows))


def print_result(result: dict[str, Any], as_json: bool = False) -> None:
    """Prints the result of `evaluate` to stdout, as tables or as JSON."""
    if as_json:
        print_json(result)
        return
    protocol = result["protocol"]
    data = result["data"]
    metrics = result["metrics"]
    figures = paper_figures(protocol, data)
    names = ("split", "train_split", "templates", "classes")
    splits = {name: result[name] for name in names if name in result}
    table = result_tables.metrics_table(protocol, data, metrics, figures, splits)
    print_table(*table)
    for table in result_tables.tables_of_many_models(
        protocol, data, metrics, figures, splits
    ):
        print_table(*table)
    if result.get("slices"):
        title = f"by {result['slice_by']}"
        print_table(*result_tables.slices_table(title, result["slices"]))
    print(f"runtime: {result['runtime']}")


def print_suite(rows: Iterable[Any], as_json: bool = False) -> list[Any]:
    """Prints each `SuiteRow` as soon as it is read, and returns all rows.

    JSON is printed after the last row.
    """
    finished_rows = []
    for row in rows:
        finished_rows.append(row)
        if row.metrics and not as_json:
            figures = paper_figures(row.protocol, row.data)
            tables = result_tables.paper_tables(
                row.protocol, row.data, row.metrics, figures
            )
            for table in tables.values():
                print_table(*table)
    if as_json:
        print_json([row.as_dict() for row in finished_rows])
        return finished_rows
    for runtime in {row.runtime for row in finished_rows if row.runtime}:
        print(f"runtime: {runtime}")
    for title, reason in (("Skipped", "skipped"), ("Failed", "failed")):
        rows_without_metrics = [row for row in finished_rows if getattr(row, reason)]
        if rows_without_metrics:
            print(f"{title}:")
        for row in rows_without_metrics:
            # Reasons contain paths and commands, which would wrap in a table.
            numbers = ", ".join(map(str, row.tables))
            plural = "s" if len(row.tables) > 1 else ""
            print(f"- table{plural} {numbers}: {row.protocol} on {row.data}")
            print(f"  {getattr(row, reason)}")
    return finished_rows
