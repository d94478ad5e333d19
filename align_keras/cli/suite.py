"""`align-keras evaluate --suite paper`: every table whose data is there."""

import dataclasses

from align_keras.cli.evaluate_arguments import TRAINED
from align_keras.cli.evaluation_request import data_request, protocol_options
from align_keras.cli.evaluation_results import as_json as json_text
from align_keras.cli.evaluation_results import paper_as_shares, print_table
from align_keras.protocols.evaluation_data import NAMED, missing
from align_keras.protocols.open_model import is_export
from align_keras.protocols.paper_protocols import PROTOCOLS
from align_keras.protocols.unprepared_sets import what_to_prepare
from align_keras.reports.paper_results import paper_results
from align_keras.reports.result_tables import papers_tables
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

# Of CLIP's prompts and class names, which the paper takes.
_CLIP = "clip:imagenet1k"
# What an export hasn't got: [CLS] before the projection, and weights that can learn.
_OF_RUN_FOLDERS = ("simlex", *TRAINED)


@dataclasses.dataclass(frozen=True)
class SuiteRow:
    """One protocol on one data set.

    Attributes:
        tables: tuple of int, the paper's tables that it belongs to.
        protocol: str.
        data: str.
        metrics: dict, name → float; empty if it wasn't measured.
        skipped: str, what to download first, or that an export won't do; empty
            if all is there.
        failed: str, what went wrong; empty if nothing did.
    """

    tables: tuple
    protocol: str
    data: str
    metrics: dict = dataclasses.field(default_factory=dict)
    skipped: str = ""
    failed: str = ""


def run_suite(encoders, arguments, check_model):
    """Runs what can be run, and says of the rest what is missing.

    Args:
        encoders: `CachedEncoders`.
        arguments: the command line's.
        check_model: function that raises unless the model is there; it is called
            only where there is something to measure.

    Yields:
        `SuiteRow`, in the order of the paper's tables.
    """
    tables = {}
    for result in paper_results():
        tables.setdefault((result.protocol, result.data), set()).add(result.table)
    rows = [
        SuiteRow(
            tuple(sorted(numbers)),
            protocol,
            data,
            skipped=_what_lacks(protocol, data, arguments),
        )
        for (protocol, data), numbers in tables.items()
    ]
    if not all(row.skipped for row in rows):
        check_model()
    for row in rows:
        yield row if row.skipped else _measured(row, encoders, arguments)


def _what_lacks(protocol, data, arguments):
    needs = [what_to_download(protocol, data_request(arguments, data))]
    if protocol in _OF_RUN_FOLDERS and is_export(arguments.model):
        needs.append(
            f"needs the run folder, but --model {arguments.model} is an export"
        )
    return "; ".join(filter(None, needs))


def what_to_download(protocol, request):
    """Says what a protocol needs that isn't there.

    Args:
        protocol: str.
        request: `DataRequest`.

    Returns:
        str, empty where all is there.
    """
    if request.name in NAMED:
        absent = missing(request.name, request.root)
        return f"download {absent}" if absent else ""
    from align_keras.datasets import benchmarks
    from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

    if request.name == "vtab":
        return what_to_prepare(task.builder for task in VTAB_TASKS.values())
    needs = [what_to_prepare([request.name])]
    if protocol == "zero_shot":
        try:
            benchmarks.read_templates(_CLIP)
        except InputError as error:
            needs.append(str(error).rstrip("."))
    return "; ".join(filter(None, needs))


def _measured(row, encoders, arguments):
    request, options = data_request(arguments, row.data), protocol_options(arguments)
    if row.protocol == "zero_shot":
        options = dataclasses.replace(options, templates=_CLIP)
        request = dataclasses.replace(request, classes=_CLIP)
    function, _ = PROTOCOLS[row.protocol]
    say(f"{row.protocol} on {row.data}")
    try:
        metrics = function(encoders, request, options).metrics
    except InputError as error:
        say(f"{row.protocol} on {row.data}: {error}")
        return dataclasses.replace(row, failed=" ".join(str(error).split()))
    return dataclasses.replace(row, metrics=metrics)


def print_suite(rows, as_json=False):
    """Prints the measured figures beside the paper's, and what was left out.

    Args:
        rows: iterable of `SuiteRow`; tables are printed as they come.
        as_json: bool, print one JSON list at the end.

    Returns:
        int, the exit code: 1 where a protocol failed whose data is there.
    """
    done = []
    for row in rows:
        done.append(row)
        if row.metrics and not as_json:
            for table in papers_tables(row.protocol, row.data, row.metrics).values():
                print_table(table)
    if as_json:
        print(json_text([_as_dict(row) for row in done]))
    else:
        for title, reason in (("Skipped", "skipped"), ("Failed", "failed")):
            left_out = [row for row in done if getattr(row, reason)]
            if left_out:
                print(f"{title}:")
            for row in left_out:
                # Not as a table, so that paths and commands stay whole.
                numbers = ", ".join(map(str, row.tables))
                many = "s" if len(row.tables) > 1 else ""
                print(f"- table{many} {numbers}: {row.protocol} on {row.data}")
                print(f"  {getattr(row, reason)}")
    return int(any(row.failed for row in done))


def _as_dict(row):
    return dataclasses.asdict(row) | {"paper": paper_as_shares(row.protocol, row.data)}
