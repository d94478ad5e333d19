"""`align-keras evaluate --suite paper`: results, skipped protocols and failures."""

import dataclasses
import json
import re

import pytest

from align_keras.cli.main import main
from align_keras.protocols import suite
from align_keras.protocols.paper_results import paper_results
from align_keras.protocols.protocol import Evaluation, Request
from align_keras.protocols.run_protocol import PROTOCOLS
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import GOLDEN
from tests.helpers.pages import Page
from tests.helpers.small_benchmarks import simlex_lines, write_simlex

# (protocol, data set) of each row of the suite, in its order.
ROWS = dict.fromkeys((result.protocol, result.data) for result in paper_results())


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Function that runs the suite in a folder without data sets.

    It returns the exit code, stdout and stderr.
    """
    monkeypatch.chdir(tmp_path)
    # TFDS reads the environment variable when it is imported, and this constant later.
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds")
    )

    def run(*arguments, model="nowhere"):
        common = ["--suite", "paper", "--model", str(model), "--cache", "cache"]
        code = main(["evaluate", *common, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_without_data_all_protocols_are_skipped(run, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the model was opened")

    monkeypatch.setattr("align_keras.protocols.run_protocol.load_model", refuse)
    code, out, err = run()
    assert (code, err) == (0, "")
    title, *lines = out.splitlines()
    assert title == "Skipped:"
    headings, reasons = lines[::2], lines[1::2]
    assert len(headings) == len(ROWS)
    skipped = {}
    for heading, reason in zip(headings, reasons, strict=True):
        match = re.fullmatch(r"- tables? ([\d, ]+): (\w+) on (\w+)", heading)
        skipped[match[2], match[3]] = match[1], reason.strip()
    assert skipped.keys() == ROWS.keys()
    tables = {
        number for numbers, _ in skipped.values() for number in numbers.split(", ")
    }
    assert tables == {str(number) for number in range(1, 13)}
    assert skipped["retrieval", "coco"][0] == "1, 8, 9, 10"
    for (_, data), (_, reason) in skipped.items():
        if data in ("flickr30k", "coco", "cxc", "multi30k", "simlex999"):
            assert reason.startswith("Download ") and "data/" in reason
        elif data == "vtab":
            assert "tfds build caltech101 cifar100" in reason
            assert "resisc45 and diabetic_retinopathy_detection/btgraham" in reason
        else:
            assert f"tfds build {data}" in reason
        assert ("by hand" in reason) == (data in ("imagenet2012", "vtab"))
        if data == "cars196":
            # The test must not read data sets of this machine.
            assert str(tmp_path / "tfds") in reason


def test_skipped_protocols_are_in_the_json(run):
    code, out, err = run("--json")
    assert (code, err) == (0, "")
    rows = json.loads(out, parse_constant=pytest.fail)
    assert [(row["protocol"], row["data"]) for row in rows] == list(ROWS)
    assert all(row["skipped"] and not row["metrics"] for row in rows)
    (row,) = (row for row in rows if row["protocol"] == "simlex")
    assert row["tables"] == [12] and row["paper"]["ALIGN"]["all/spearman"] == 0.398


def write_simlex_data(folder):
    write_simlex(folder / "words/SimLex-999/SimLex-999.txt", simlex_lines(999))


def test_results_are_printed_next_to_the_results_of_the_paper(
    run, tmp_path, small_model
):
    write_simlex_data(tmp_path)
    options = ("--data_root", "words", "--html", "suite.html")
    code, out, err = run(*options, model=small_model)
    assert code == 0
    assert "simlex on simlex999" in err and "wrote suite.html" in err
    table, skipped = out.split("Skipped:")
    assert table.startswith("Table 12: simlex on simlex999")
    assert re.search(r"│ all/spearman, % *│ *-?\d+\.\d │ *39\.8 │", table)
    assert "simlex" not in skipped and skipped.count("- table") == len(ROWS) - 1
    page = Page((tmp_path / "suite.html").read_text("utf-8"))
    assert "Table 12: simlex on simlex999" in page.text and "39.8" in page.text
    assert page.text.count("skipped") == len(ROWS) - 1
    assert not [script for script in page.attributes("script")]


def test_protocols_that_need_a_run_skip_an_export(run, tmp_path):
    write_simlex_data(tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "saved_model.pb").touch()
    code, out, err = run("--data_root", "words", "--json", model="export")
    assert (code, err) == (0, "")
    reasons = {row["protocol"]: row["skipped"] for row in json.loads(out)}
    trained = ("imagenet_frozen", "imagenet_full", "fine_grained", "vtab")
    skipped = {name for name, reason in reasons.items() if "an export" in reason}
    assert skipped == {"simlex", *trained}


def test_a_missing_model_is_reported_if_there_is_data(run, tmp_path):
    write_simlex_data(tmp_path)
    code, out, err = run("--data_root", "words")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "align_small_en" in err and "Received: --model='nowhere'" in err


@pytest.mark.parametrize(
    "error, message",
    [
        (
            InputError("`images` must be\n there, received none."),
            "`images` must be there, received none.",
        ),
        (
            FileNotFoundError(2, "No such file", "a.jpg"),
            "[Errno 2] No such file: 'a.jpg'",
        ),
    ],
)
def test_a_failure_does_not_end_the_suite(run, tmp_path, monkeypatch, error, message):
    """Two protocols have data. The first one fails and the second one succeeds."""
    monkeypatch.setattr(
        suite,
        "download_steps",
        lambda protocol, request: (
            "" if protocol in ("simlex", "multi30k") else "get it"
        ),
    )

    def fail(encoders, request):
        raise error

    def succeed(encoders, request):
        return Evaluation({"all/spearman": 0.25})

    for name, function in (("multi30k", fail), ("simlex", succeed)):
        function.__name__ = name
        protocol = dataclasses.replace(
            PROTOCOLS[name], run=function, needs="embeddings"
        )
        monkeypatch.setitem(PROTOCOLS, name, protocol)
    code, out, _ = run(model=GOLDEN)
    assert code == 1
    assert re.search(r"│ all/spearman, % *│ *25\.0 │ *39\.8 │", out)
    assert out.endswith(f"Failed:\n- table 11: multi30k on multi30k\n  {message}\n")
    code, out, _ = run("--json", model=GOLDEN)
    failed = [row["failed"] for row in json.loads(out) if row["failed"]]
    assert (code, failed) == (1, [message])


def test_zero_shot_needs_clip_benchmark(monkeypatch):
    """A row is skipped if only clip-benchmark is missing."""
    from align_keras.datasets import benchmarks

    monkeypatch.setattr(benchmarks, "prepared_builder", lambda name: None)
    request = Request("imagenet_r")
    assert suite.download_steps("knn", request) == ""

    def raise_missing_package(source):
        raise InputError(f"{source} needs clip-benchmark; run pip install it.")

    monkeypatch.setattr(benchmarks, "read_templates", raise_missing_package)
    reason = suite.download_steps("zero_shot", request)
    assert reason == "clip:imagenet1k needs clip-benchmark; run pip install it"
