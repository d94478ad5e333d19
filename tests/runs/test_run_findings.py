"""Test of the findings in a run folder and in the report of the run."""

import json
import re

import pytest

from align_keras.cli.main import main
from tests.helpers.small_run import SMALL, write_pairs


@pytest.mark.release
def test_findings_of_a_run_are_printed_stored_and_reported(tmp_path, capsys):
    table = write_pairs(tmp_path / "pairs")
    # The captions have five different texts.
    table.write_text(re.sub(r"a \w+ (\w+)", r"a \1", table.read_text()))
    run = tmp_path / "run"
    command = [
        "quickstart",
        f"--pairs={table}",
        f"--model_dir={run}",
        f"--data_dir={tmp_path / 'data'}",
        f"--params_override={SMALL},task.train_data.global_batch_size=24",
    ]
    assert main(command) == 0
    findings = json.loads((run / "findings.json").read_text())
    finding = next(entry for entry in findings if entry["name"] == "equal_captions")
    assert finding["captions"] == 24
    assert finding["different_captions"] == 5
    sentences = f"{finding['problem']} {finding['remedy']}"
    assert capsys.readouterr().err.count(f"training problem: {sentences}") == 1
    report = (run / "report.html").read_text()
    for sentence in (finding["problem"], finding["remedy"]):
        assert sentence.replace("'", "&#39;") in report
    # A resumed run keeps the findings and doesn't print them again.
    assert main([*command, "--params_override=trainer.train_steps=12"]) == 0
    assert finding in json.loads((run / "findings.json").read_text())
    assert finding["problem"] not in capsys.readouterr().err
