"""Checks the results of a short quickstart: `check_quickstart.py RUN`.

Its recall must be far above chance, and the checks of its training must report nothing.
"""

import json
import pathlib
import sys

# Minimum zero-shot R@10 as a multiple of chance. Measured values are 8 and 9.
TIMES_CHANCE = 5

run = pathlib.Path(sys.argv[1])
metrics = {}
for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
    metrics.update(json.loads(line))
for direction in ("t2i", "i2t"):
    recall = metrics[f"{direction}/recall_at_10"]
    multiple = recall / metrics[f"{direction}/chance_recall_at_10"]
    print(f"{direction} R@10 {recall:.4f}, {multiple:.1f} x chance")
    if multiple < TIMES_CHANCE:
        sys.exit(f"R@10 must be at least {TIMES_CHANCE} x chance in both directions")
findings = json.loads((run / "findings.json").read_text(encoding="utf-8"))
if findings:
    sys.exit(f"the training has findings: {findings}")
