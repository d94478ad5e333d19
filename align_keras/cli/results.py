"""The final table of a run, on stdout."""

import json

from rich.console import Console
from rich.table import Table

from align_keras.reports.report_tables import DIRECTIONS, retrieval_rows


def print_metrics(metrics, as_json=False):
    """Prints the retrieval metrics to stdout, as a table or as JSON."""
    if as_json:
        print(json.dumps(metrics, indent=1, sort_keys=True))
        return
    table = Table(title="Zero-shot retrieval on the test pairs")
    for column in ("direction", "recall at", "recall %", "chance %", "× chance"):
        table.add_column(column, justify="left" if column == "direction" else "right")
    for row in retrieval_rows(metrics):
        table.add_row(
            DIRECTIONS[row.direction],
            str(row.k),
            f"{100 * row.recall:.1f}",
            "" if row.chance is None else f"{100 * row.chance:.2f}",
            "" if row.times_chance is None else f"{row.times_chance:.0f}",
        )
    Console().print(table)
