"""`align-keras evaluate`: measures a model by one protocol of the paper, or by all."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from align_keras.cli.common import nested_commands, print_json, print_table
from align_keras.embedders.locations import MODEL_HELP
from align_keras.protocols.protocol import OPTIONS
from align_keras.protocols.run_protocol import (
    PROTOCOLS,
    check_writable,
    evaluate,
    run_suite,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import replaceable_file

# Options that `--suite` accepts. All other options belong to one protocol.
_SUITE_OPTIONS = (
    "data_root",
    "runtime",
    "engine",
    "workers",
    "results",
    "allow_missing",
    "html",
)
# Options with underscores, as TF Model Garden has them.
_WITH_UNDERSCORES = ("config_file", "params_override")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "align-keras evaluate PROTOCOL --model M [--data D] [OPTION …]\n"
        "       align-keras evaluate --suite paper --model M [OPTION …]"
    )
    parser.epilog = "align-keras evaluate PROTOCOL --help shows a protocol's options."
    parser.add_argument(
        "--suite",
        choices=("paper",),
        help="every protocol of the paper whose data is there, next to its figures",
    )
    _add_options(parser, _SUITE_OPTIONS)
    add_protocol = nested_commands(parser, "PROTOCOL", "protocols")
    for protocol in PROTOCOLS.values():
        table = f" ({protocol.table})" if protocol.table else ""
        protocol_parser = add_protocol(protocol.name, protocol.help + table)
        options = ["html", *(name for name in OPTIONS if protocol.takes(name))]
        default = f" (default: {protocol.data})" if protocol.data else ""
        _add_options(protocol_parser, options, protocol.data_help + default)


def _add_options(
    parser: argparse.ArgumentParser,
    shown: Sequence[str],
    data_help: str = argparse.SUPPRESS,
) -> None:
    """Adds all options. Help shows those in `shown`. `run` raises for the others."""
    parser.add_argument(
        "--model",
        metavar="M",
        help=MODEL_HELP,
    )
    settings: dict[str, Mapping[str, Any]] = {
        name: option.metadata for name, option in OPTIONS.items()
    }
    settings["html"] = {"metavar": "FILE", "help": "write a page of results"}
    for name, option_settings in settings.items():
        keywords = {"default": parser.argument_default, "dest": name, **option_settings}
        if name == "data":
            keywords["help"] = data_help
        if name not in shown:
            keywords["help"] = argparse.SUPPRESS
        spelling = name if name in _WITH_UNDERSCORES else name.replace("_", "-")
        parser.add_argument(f"--{spelling}", **keywords)
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="folder of embeddings (default: align_keras/embeddings in the user's "
        "cache folder)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, not tables")


def run(arguments: argparse.Namespace) -> int:
    names = (*OPTIONS, "html", "cache")
    values = {name: getattr(arguments, name) for name in names}
    options = {name: value for name, value in values.items() if value is not None}
    for name, value in options.items():
        if value == "":
            raise InputError(f"{name} must not be empty, received ''; leave it out.")
    if not arguments.model:
        raise InputError("model must be given, received nothing; name a run folder.")
    if arguments.suite and arguments.nested:
        raise InputError(
            "`suite` must come without PROTOCOL. Received: "
            f"{arguments.nested} with --suite {arguments.suite}. Leave out one of them."
        )
    if arguments.suite:
        for name, value in options.items():
            if name not in (*_SUITE_OPTIONS, "cache"):
                raise InputError(
                    f"`{name}` is for one protocol, received {value!r} with --suite; "
                    "leave it out."
                )
        return _run_suite(arguments, options)
    if arguments.nested is None:
        raise InputError(
            "PROTOCOL or --suite paper must be given; write for instance "
            "align-keras evaluate retrieval."
        )
    result = evaluate(arguments.model, arguments.nested, **options)
    print_result(result, arguments.json)
    return 0


def _run_suite(arguments: argparse.Namespace, options: dict[str, Any]) -> int:
    """Runs the suite, prints it, and writes its page if `html` names one."""
    html = options.pop("html", None)
    if html is not None:
        check_writable("html", html, replaceable_file(html, "html").absolute().parent)
    rows = _Recorded(run_suite(arguments.model, **options))
    code = print_suite(rows, arguments.json)
    if html is not None:
        from align_keras.protocols.paper_results import paper_figures
        from align_keras.reports.result_page import write_suite_page
        from align_keras.utils.progress import say

        page_rows = [
            row.as_dict() | {"figures": paper_figures(row.protocol, row.data)}
            for row in rows.items
        ]
        write_suite_page(html, arguments.model, page_rows)
        say(f"wrote {html}")
    return code


class _Recorded:
    """Iterable that keeps the items of another iterable as they are read."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable
        self.items: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            self.items.append(item)
            yield item


def print_result(result: dict[str, Any], as_json: bool = False) -> None:
    """Prints what `evaluate` returns to stdout, as tables or as JSON."""
    if as_json:
        print_json(result)
        return
    from align_keras.protocols.paper_results import paper_figures
    from align_keras.reports import result_tables

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


def print_suite(rows: Iterable[Any], as_json: bool = False) -> int:
    """Prints each result next to the paper's figures, or all as JSON at the end.

    Returns:
        int, exit code: 1 if a protocol failed whose data is there, else 0.
    """
    from align_keras.protocols.paper_results import paper_figures
    from align_keras.reports.result_tables import paper_tables

    done = []
    for row in rows:
        done.append(row)
        if row.metrics and not as_json:
            figures = paper_figures(row.protocol, row.data)
            tables = paper_tables(row.protocol, row.data, row.metrics, figures)
            for table in tables.values():
                print_table(*table)
    if as_json:
        print_json([row.as_dict() for row in done])
        return int(any(row.failed for row in done))
    for title, reason in (("Skipped", "skipped"), ("Failed", "failed")):
        rows_left_out = [row for row in done if getattr(row, reason)]
        if rows_left_out:
            print(f"{title}:")
        for row in rows_left_out:
            # Lines in place of a table, so that paths and commands do not wrap.
            numbers = ", ".join(map(str, row.tables))
            many = "s" if len(row.tables) > 1 else ""
            print(f"- table{many} {numbers}: {row.protocol} on {row.data}")
            print(f"  {getattr(row, reason)}")
    return int(any(row.failed for row in done))
