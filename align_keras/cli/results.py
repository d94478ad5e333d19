"""The final table of a run, on stdout."""

import json

from rich.console import Console
from rich.table import Table

DIRECTIONS = {"t2i": "text → image", "i2t": "image → text"}


def retrieval_rows(metrics):
    """Returns (direction, k, recall, chance) for each recall in `metrics`.

    Args:
        metrics: dict, name → float, with keys such as `t2i/recall_at_10` and
            `t2i/chance_recall_at_10`.
    """
    rows = []
    for name, value in metrics.items():
        direction, _, metric = name.partition("/")
        if direction in DIRECTIONS and metric.startswith("recall_at_"):
            chance = metrics.get(f"{direction}/chance_{metric}")
            rows.append((direction, int(metric.rsplit("_", 1)[1]), value, chance))
    return sorted(rows, key=lambda row: (row[0] != "t2i", row[1]))


def print_metrics(metrics, as_json=False):
    """Prints the retrieval metrics to stdout, as a table or as JSON."""
    if as_json:
        print(json.dumps(metrics, indent=1, sort_keys=True))
        return
    table = Table(title="Zero-shot retrieval on the test pairs")
    for column in ("direction", "recall at", "recall %", "chance %", "× chance"):
        table.add_column(column, justify="left" if column == "direction" else "right")
    for direction, k, recall, chance in retrieval_rows(metrics):
        table.add_row(
            DIRECTIONS[direction],
            str(k),
            f"{100 * recall:.1f}",
            "" if chance is None else f"{100 * chance:.2f}",
            "" if not chance else f"{recall / chance:.0f}",
        )
    Console().print(table)
