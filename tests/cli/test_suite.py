"""`align-keras evaluate --suite paper`: what is there is measured, the rest named."""

import dataclasses
import json
import re

import pytest

from align_keras.cli.main import main
from align_keras.protocols import run_protocol as suite
from align_keras.protocols.paper_results import paper_results
from align_keras.protocols.protocol import Evaluation, Request
from align_keras.protocols.run_protocol import PROTOCOLS
from align_keras.utils.errors import InputError
from tests.helpers.pages import Page
from tests.helpers.small import small_align
from tests.helpers.small_benchmarks import simlex_lines, write_simlex

ROWS = dict.fromkeys((own.protocol, own.data) for own in paper_results())


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Runs the suite in a folder without data; returns code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    # TFDS asks the variable when it is imported; this is where it looks afterwards.
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds")
    )

    def run(*arguments, model="nowhere"):
        common = ["--suite", "paper", "--model", str(model), "--cache", "cache"]
        code = main(["evaluate", *common, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_without_any_data_everything_is_named_and_no_model_opened(
    run, tmp_path, monkeypatch
):
    def refuse(*arguments):
        raise AssertionError("the model was opened")

    monkeypatch.setattr("align_keras.protocols.run_protocol.load_model", refuse)
    code, out, err = run()
    assert (code, err) == (0, "")
    title, *lines = out.splitlines()
    assert title == "Skipped:"
    heads, reasons = lines[::2], lines[1::2]
    assert len(heads) == len(ROWS)
    told = {}
    for head, reason in zip(heads, reasons, strict=True):
        match = re.fullmatch(r"- tables? ([\d, ]+): (\w+) on (\w+)", head)
        told[match[2], match[3]] = match[1], reason.strip()
    assert told.keys() == ROWS.keys()
    tables = {number for numbers, _ in told.values() for number in numbers.split(", ")}
    assert tables == {str(number) for number in range(1, 13)}
    assert told["retrieval", "coco"][0] == "1, 8, 9, 10"
    for (_, data), (_, reason) in told.items():
        if data in ("flickr30k", "coco", "cxc", "multi30k", "simlex999"):
            assert reason.startswith("Download ") and "data/" in reason
        elif data == "vtab":
            assert "tfds build caltech101 cifar100" in reason
            assert "resisc45 and diabetic_retinopathy_detection/btgraham" in reason
        else:
            assert f"tfds build {data}" in reason
        assert ("by hand" in reason) == (data in ("imagenet2012", "vtab"))
        if data == "cars196":  # So that no set of this machine is found.
            assert str(tmp_path / "tfds") in reason


def test_without_any_data_as_json(run):
    code, out, err = run("--json")
    assert (code, err) == (0, "")
    rows = json.loads(out, parse_constant=pytest.fail)
    assert [(row["protocol"], row["data"]) for row in rows] == list(ROWS)
    assert all(row["skipped"] and not row["metrics"] for row in rows)
    (row,) = (own for own in rows if own["protocol"] == "simlex")
    assert row["tables"] == [12] and row["paper"]["ALIGN"]["all/spearman"] == 0.398


def write_words(folder):
    write_simlex(folder / "words/SimLex-999/SimLex-999.txt", simlex_lines(999))


def test_what_is_there_is_measured_beside_the_paper(run, tmp_path):
    write_words(tmp_path)
    small_align().save_to_preset(tmp_path / "run")
    code, out, err = run("--data_root", "words", model="run")
    assert code == 0
    assert "simlex on simlex999" in err
    table, skipped = out.split("Skipped:")
    assert table.startswith("Table 12: simlex on simlex999")
    assert re.search(r"│ all/spearman, % *│ *-?\d+\.\d │ *39\.8 │", table)
    assert "simlex" not in skipped and skipped.count("- table") == len(ROWS) - 1
    code, out, _ = run("--data_root", "words", "--json", model="run")
    rows = json.loads(out, parse_constant=pytest.fail)
    (row,) = (own for own in rows if own["metrics"])
    assert row["protocol"] == "simlex" and row["metrics"]["all/pairs"] == 999


def test_the_suite_writes_a_page(run, tmp_path):
    write_words(tmp_path)
    small_align().save_to_preset(tmp_path / "run")
    code, out, err = run("--data_root", "words", "--html", "suite.html", model="run")
    assert code == 0 and "wrote suite.html" in err
    page = Page((tmp_path / "suite.html").read_text("utf-8"))
    assert "Table 12: simlex on simlex999" in page.text
    assert "all, Spearman correlation, %" in page.text and "39.8" in page.text
    assert page.text.count("skipped") == len(ROWS) - 1
    assert not [script for script in page.attributes("script")]
    code, _, err = run("--html", "run", model="run")
    assert code == 1 and "html must be" in err and "Traceback" not in err


def test_an_export_is_not_asked_for_what_it_has_not(run, tmp_path):
    write_words(tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "saved_model.pb").touch()
    code, out, err = run("--data_root", "words", "--json", model="export")
    assert (code, err) == (0, "")
    needs = "Needs the run folder, but export is an export"
    told = {row["protocol"]: row["skipped"] for row in json.loads(out)}
    assert told["simlex"] == needs
    trained = ("imagenet_frozen", "imagenet_full", "fine_grained", "vtab")
    assert all(told[own].endswith(f". {needs}") for own in trained)
    assert {own for own in told if needs in told[own]} == {"simlex", *trained}


def test_a_wrong_model_is_told_where_there_is_data(run, tmp_path):
    write_words(tmp_path)
    code, out, err = run("--data_root", "words")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "--model must be align_small_en, the folder of a run" in err
    assert "Received: 'nowhere', which does not exist" in err


def test_a_failure_does_not_end_the_others(run, tmp_path, monkeypatch):
    """Two protocols have data; the first fails, the second is measured."""
    monkeypatch.setattr(
        suite,
        "download_steps",
        lambda protocol, request: (
            "" if protocol in ("simlex", "multi30k") else "get it"
        ),
    )

    def fails(encoders, request):
        raise InputError("`images` must be\n there, received none.")

    def measured(encoders, request):
        return Evaluation({"all/spearman": 0.25})

    for name, run_it in (("multi30k", fails), ("simlex", measured)):
        run_it.__name__ = name
        changed = dataclasses.replace(PROTOCOLS[name], run=run_it)
        monkeypatch.setitem(PROTOCOLS, name, changed)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    code, out, _ = run(model="run")
    assert code == 1
    assert re.search(r"│ all/spearman, % *│ *25\.0 │ *39\.8 │", out)
    assert out.endswith(
        "Failed:\n- table 11: multi30k on multi30k\n"
        "  `images` must be there, received none.\n"
    )
    code, out, _ = run("--json", model="run")
    failed = [row["failed"] for row in json.loads(out) if row["failed"]]
    assert (code, failed) == (1, ["`images` must be there, received none."])


def test_zero_shot_takes_clips_prompts(monkeypatch):
    """And says that clip-benchmark is missing where only that is."""
    from align_keras.datasets import benchmarks

    monkeypatch.setattr(benchmarks, "prepared_builder", lambda name: None)
    request = Request("imagenet_r")
    assert suite.download_steps("knn", request) == ""

    def missing(source):
        raise InputError(f"{source} needs clip-benchmark; run pip install it.")

    monkeypatch.setattr(benchmarks, "read_templates", missing)
    told = suite.download_steps("zero_shot", request)
    assert told == "clip:imagenet1k needs clip-benchmark; run pip install it"
