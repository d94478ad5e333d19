"""`align-keras evaluate`: a protocol of the paper, or all of them, on a model."""

import argparse
from collections.abc import Iterable, Iterator
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

# What the suite takes too; the others are for one protocol.
_OF_SUITE = (
    *("data_root", "runtime", "engine", "workers", "results", "allow_missing"),
    "html",
)
# As Model Garden spells them.
_WITH_UNDERSCORES = ("config_file", "params_override")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "align-keras evaluate PROTOCOL --model M [--data D] [OPTION …]\n"
        "       align-keras evaluate --suite paper --model M [OPTION …]"
    )
    parser.epilog = "align-keras evaluate PROTOCOL --help shows a protocol's options."
    what = parser.add_mutually_exclusive_group()
    # `--protocol P` in the place of PROTOCOL goes on working.
    what.add_argument("--protocol", metavar="P", help=argparse.SUPPRESS)
    what.add_argument(
        "--suite",
        choices=("paper",),
        help="every protocol of the paper whose data is there, beside its figures",
    )
    _add_options(parser, _OF_SUITE)
    add = nested_commands(parser, "PROTOCOL", "protocols")
    for protocol in PROTOCOLS.values():
        where = f" ({protocol.table})" if protocol.table else ""
        nested = add(protocol.name, protocol.help + where)
        taken = [name for name in OPTIONS if protocol.takes(name)]
        usual = f" (default: {protocol.data})" if protocol.data else ""
        _add_options(nested, ("html", *taken), protocol.data_help + usual)


def _add_options(parser, shown, data_help=argparse.SUPPRESS):
    """Adds all options; help shows those that apply, and others are refused later."""
    parser.add_argument(
        "--model",
        metavar="M",
        help=MODEL_HELP,
    )
    known = {name: option.metadata for name, option in OPTIONS.items()}
    known["html"] = {"metavar": "FILE", "help": "write a page of results"}
    for name, about in known.items():
        keywords = {"default": parser.argument_default, "dest": name, **about}
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
    given = {name: getattr(arguments, name) for name in (*OPTIONS, "html", "cache")}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if value == "":
            raise InputError(f"{name} must not be empty, received ''; leave it out.")
    if not arguments.model:
        raise InputError("model must be given, received nothing; name a run folder.")
    if arguments.suite:
        for name, value in given.items():
            if name not in (*_OF_SUITE, "cache"):
                raise InputError(
                    f"`{name}` is for one protocol, received {value!r} with --suite; "
                    "leave it out."
                )
        return _run_suite(arguments, given)
    protocol = arguments.nested or arguments.protocol
    if protocol is None or (arguments.nested and arguments.protocol):
        raise InputError(
            "PROTOCOL, once, or --suite paper must be given; write for instance "
            "align-keras evaluate retrieval."
        )
    result = evaluate(arguments.model, protocol, **given)
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
        from align_keras.reports.result_page import write_suite_page
        from align_keras.utils.progress import say

        write_suite_page(html, arguments.model, [row.as_dict() for row in rows.items])
        say(f"wrote {html}")
    return code


class _Recorded:
    """Keeps what an iterable yields while it is read."""

    def __init__(self, iterable: Iterable[Any]):
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
    from align_keras.reports import result_tables

    about = result["protocol"], result["data"], result["metrics"]
    names = ("split", "train_split", "templates", "classes")
    splits = {name: result[name] for name in names if name in result}
    print_table(*result_tables.metrics_table(*about, splits))
    for table in result_tables.tables_of_many_models(*about, splits):
        print_table(*table)
    if result.get("slices"):
        title = f"by {result['slice_by']}"
        print_table(*result_tables.slices_table(title, result["slices"]))


def print_suite(rows: Iterable[Any], as_json: bool = False) -> int:
    """Prints the figures beside the paper's as they come, or one list as JSON at the
    end; returns the exit code, 1 where a protocol failed whose data is there.
    """
    from align_keras.reports.result_tables import papers_tables

    done = []
    for row in rows:
        done.append(row)
        if row.metrics and not as_json:
            for table in papers_tables(row.protocol, row.data, row.metrics).values():
                print_table(*table)
    if as_json:
        print_json([row.as_dict() for row in done])
        return int(any(row.failed for row in done))
    for title, reason in (("Skipped", "skipped"), ("Failed", "failed")):
        rows_left_out = [row for row in done if getattr(row, reason)]
        if rows_left_out:
            print(f"{title}:")
        for row in rows_left_out:
            # Not as a table, so that paths and commands stay whole.
            numbers = ", ".join(map(str, row.tables))
            many = "s" if len(row.tables) > 1 else ""
            print(f"- table{many} {numbers}: {row.protocol} on {row.data}")
            print(f"  {getattr(row, reason)}")
    return int(any(row.failed for row in done))
