"""`align-keras evaluate`: one protocol, its results, and its wrong inputs."""

import importlib.util
import json
import math
import re

import pytest

from align_keras.cli.common import print_json, print_table
from align_keras.cli.evaluate import print_result
from align_keras.cli.main import main
from align_keras.protocols.paper_results import figures_as_shares, paper_results
from align_keras.protocols.protocol import OPTIONS, Request
from align_keras.protocols.run_protocol import (
    PROTOCOLS,
    checked_request,
    unusual_options,
)
from align_keras.reports.result_tables import (
    ResultTable,
)
from tests.helpers.pages import Page
from tests.helpers.small import small_align
from tests.helpers.small_run import COLORS, SHAPES, draw, write_pairs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, captioned pictures, and pictures in a folder a class."""
    place = tmp_path_factory.mktemp("evaluate")
    small_align().save_to_preset(place / "run")
    write_pairs(place / "pairs")
    (place / "pairs" / "red_ring.png").write_bytes(b"no picture")
    for split in ("train", "test"):
        for shape in SHAPES:
            (place / "shapes" / split / shape).mkdir(parents=True)
            for color in COLORS[:5]:
                path = place / "shapes" / split / shape / f"{color}.png"
                draw(color, shape).save(path)
    return place


@pytest.fixture
def run(place, capsys, monkeypatch):
    """Runs the command; returns its exit code, stdout and stderr."""
    monkeypatch.chdir(place)

    def run(*arguments, model="run"):
        model = ["--model", model] if model else []
        cache = [] if "--cache" in arguments else ["--cache", "cache"]
        code = main(["evaluate", *arguments, *model, *cache])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


RETRIEVAL = ("retrieval", "--data", "pairs/pairs.jsonl")
ZERO_SHOT = ("zero_shot", "--data", "shapes")
WRONG = {
    "no data": (RETRIEVAL[:1], "--data must be set for retrieval"),
    "data": ((*RETRIEVAL[:2], "nowhere"), "--data must be flickr30k.*'nowhere'"),
    "named data": (
        (*RETRIEVAL[:2], "coco"),
        "--data must be a downloaded data set.*coco.* Download",
    ),
    "page in a file": (
        (*RETRIEVAL, "--html", "run/config.json/a"),
        "--html must be in a writable folder",
    ),
    "page is a folder": (
        (*RETRIEVAL, "--html", "run"),
        "--html must be a new or a regular file",
    ),
    "cache": (
        (*RETRIEVAL, "--cache", "run/config.json"),
        "--cache must be in a writable folder",
    ),
    "column": ((*RETRIEVAL, "--slice_by", "size"), "--slice-by must be one of.*'size'"),
    "column of classes": (
        (*ZERO_SHOT, "--slice_by", "x"),
        "must be one of class,? .*'x'",
    ),
    "column of tasks": (
        ("vtab", "--slice_by", "x"),
        "--slice-by must be one of class, the columns of this data. "
        "Received: --slice-by='x'",
    ),
    "no slices": (
        (*RETRIEVAL, "--metadata", "a.csv"),
        "--metadata is used only with --slice-by. Received: --metadata='a.csv' without",
    ),
    "suite's metadata": (
        ("--suite", "paper", "--metadata", "a.csv"),
        "--metadata must be used with a single protocol",
    ),
    "templates": ((*ZERO_SHOT, "--templates", "nowhere"), "--templates must be one of"),
    "classes": ((*ZERO_SHOT, "--classes", "nowhere"), "--classes must be a file"),
    "split": ((*ZERO_SHOT, "--split", "validation"), "validation"),
    "suite": (
        ("--suite", "paper", "--split", "a"),
        "--split must be used with a single protocol",
    ),
    "suite's templates": (
        ("--suite", "paper", "--templates", "none"),
        "--templates must be used with a single protocol",
    ),
    "no templates": (
        (*RETRIEVAL, "--templates", "none"),
        "--templates is an option of zero_shot. Received: --templates='none' with retr",
    ),
    "no classes": (
        (*RETRIEVAL, "--classes", "a"),
        "--classes is an option of zero_shot, im",
    ),
    "no training": (
        (*ZERO_SHOT, "--train_split", "train"),
        "--train-split is an option of imagenet_frozen.*with zero_shot",
    ),
    "weight of another": (
        (*ZERO_SHOT, "--text_weight", "1"),
        "--text-weight is an option of composed. Received: --text-weight=1.0 with",
    ),
    "no weight": (
        ("composed", "--text_weight", "nan"),
        "--text-weight must be a number from 0 to",
    ),
    "workers": ((*RETRIEVAL, "--workers", "0"), "--workers must be a whole number"),
    "recipe": (
        (*RETRIEVAL, "--config_file", "a.yaml"),
        "--config_file is an option of imagenet",
    ),
    "workers of nothing": (
        (*RETRIEVAL, "--workers", "2"),
        "--workers is an option of imagenet",
    ),
    "empty templates": ((*ZERO_SHOT, "--templates", ""), "--templates must not be emp"),
    "empty classes": ((*ZERO_SHOT, "--classes", ""), "--classes must not be empty"),
    "empty split": ((*RETRIEVAL, "--split", ""), "--split must not be empty"),
    "vtab's split": (
        ("vtab", "--split", "x"),
        "--split is an option of retrieval,.*with vtab",
    ),
    "runtime of words": (
        ("simlex", "--runtime", "openvino"),
        "--runtime is an option of retrieval.*with simlex",
    ),
    "no such runtime": (
        (*RETRIEVAL, "--runtime", "x"),
        "--runtime must be one of auto, keras.*Received: --runtime='x'",
    ),
    "no such runtime file": (
        (*RETRIEVAL, "--runtime", "x.tflite"),
        "--runtime must be an existing file. Received: --runtime='x.tflite'",
    ),
    "runtime of training": (
        ("vtab", "--runtime", "openvino"),
        "--runtime is an option of retrieval.*with vtab",
    ),
    "missing of classes": (
        (*ZERO_SHOT, "--allow_missing"),
        "--allow-missing is an option of retrieval, cxc.*with zero_shot",
    ),
    "missing of stamps": (
        (*RETRIEVAL[:2], "stamps", "--allow_missing"),
        "--allow-missing must be left out for stamps",
    ),
    "missing of four languages": (
        ("multi30k", "--data", "stamps", "--allow_missing"),
        "--allow-missing must be left out for stamps",
    ),
    "results": (
        ("vtab", "--results", "run/config.json"),
        "--results must be in a writable folder. Received: run/config.json",
    ),
    "suite's results": (
        ("--suite", "paper", "--results", "run/config.json"),
        "--results must be in a writable folder",
    ),
}


@pytest.mark.parametrize("arguments, message", WRONG.values(), ids=WRONG)
def test_wrong_inputs_take_a_line_and_no_model(run, arguments, message, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the model was opened")

    monkeypatch.setattr("align_keras.protocols.run_protocol.load_model", refuse)
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("align-keras evaluate: error: ") and err.count("\n") == 1
    assert re.search(message, err), err


@pytest.mark.parametrize(
    "model, runtime, message",
    [
        ("nowhere", (), "--model must be align_small_en, the folder.*nowhere"),
        (
            "pairs",
            (),
            "--model must be align_small_en, the folder.*pairs.*has no config.json",
        ),
        (
            "export",
            ("--runtime", "openvino"),
            "--runtime must be saved_model for the model",
        ),
    ],
)
def test_wrong_models_take_a_line(run, place, model, runtime, message):
    (place / "export").mkdir(exist_ok=True)
    (place / "export" / "saved_model.pb").touch()
    code, out, err = run(*RETRIEVAL, *runtime, model=model)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert re.search(message, err)


def test_usage_errors(run, capsys):
    for arguments in (
        ("--suite", "papers"),
        ("xyzzy",),
        ("retreival",),
        ("knn", "--templets", "x"),
    ):
        with pytest.raises(SystemExit) as caught:
            run(*arguments, model=None)
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        if arguments == ("xyzzy",):
            assert "choose from retrieval, cxc_re" in captured.err.replace("'", "")
        if arguments == ("retreival",):
            assert "Did you mean retrieval?" in captured.err
    assert "unknown option --templets. Did you mean --templates?" in captured.err
    for arguments, model, message in (
        ((), "run", "PROTOCOL or --suite paper must be given"),
        (("--suite", "paper", "knn"), "run", "--suite must come without PROTOCOL"),
        (("knn",), None, "--model must be given"),
    ):
        code, out, err = run(*arguments, model=model)
        assert (code, out) == (1, "") and message in err


def test_help_of_a_protocol_shows_what_applies(capsys):
    def told(*arguments):
        with pytest.raises(SystemExit):
            main(["evaluate", *arguments, "--help"])
        return capsys.readouterr().out

    assert all(name in told() for name in PROTOCOLS)
    for protocol in PROTOCOLS.values():
        shown = re.findall(r"^  --([a-z][\w-]*)", told(protocol.name), re.MULTILINE)
        shown = {name.replace("-", "_") for name in shown}
        taken = {name for name in OPTIONS if protocol.takes(name)}
        assert shown == taken | {"model", "html", "cache", "json"}


def test_the_order_and_spelling_of_options_make_no_difference():
    from align_keras.cli.main import parse_arguments

    parsed = [
        vars(parse_arguments(["evaluate", *line.split()]))
        for line in (
            "zero_shot --model run --data shapes --slice-by class --json",
            "--model run zero_shot --data shapes --slice_by class --json",
            "--json --model run --slice_by class zero_shot --data shapes",
        )
    ]
    assert parsed[0] == parsed[1] == parsed[2]
    assert parsed[0]["slice_by"] == "class" and parsed[0]["json"]


def test_retrieval_with_a_page(run, place):
    page = place / "results" / "page.html"
    code, out, err = run(*RETRIEVAL, "--html", str(page))
    assert code == 0
    # The table alone, in 80 columns; all else is on stderr.
    lines = out.splitlines()
    assert lines[0].strip() == "retrieval on pairs/pairs.jsonl"
    assert all(len(line) <= 80 for line in lines)
    assert re.search(r"│ images_left_out *│ *1 │", out)
    assert re.search(r"│ t2i/recall_at_10, % *│ *\d+\.\d │ *\d+\.\d\d │", out)
    assert "1 of 40 images can't be decoded and are left out: " in err
    assert err.splitlines()[-1] == f"wrote {page}"
    shown = Page(page.read_text(encoding="utf-8"))
    assert "retrieval on pairs/pairs.jsonl" in shown.words
    assert shown.attributes("img") and "Text → image" in shown.words
    assert [own.name for own in page.parent.iterdir()] == ["page.html"]


def test_json_is_all_that_is_printed(run, place, monkeypatch):
    """Twice: computed, and from the cache, with a page beside it."""
    first = run(*RETRIEVAL, "--json")
    result = json.loads(first[1], parse_constant=pytest.fail)
    assert (result["model"], result["protocol"], result["paper"]) == (
        "run",
        "retrieval",
        {},
    )
    assert result["metrics"]["images"] == 39
    assert 0 <= result["metrics"]["i2t/recall_at_1"] <= 1

    def refuse(*arguments, **options):
        raise AssertionError("embedded again")

    from align_keras.models import ALIGN, ALIGNImageConverter

    monkeypatch.setattr(ALIGN, "encode_texts", refuse)
    monkeypatch.setattr(ALIGNImageConverter, "read", refuse)
    monkeypatch.setattr(
        "align_keras.models.embedding.EmbeddingMethods.encode_images",
        lambda *arguments, **options: None,
    )
    code, out, err = run(*RETRIEVAL, "--json", "--html", "both.html")
    assert (code, json.loads(out)) == (0, result)
    assert (place / "both.html").exists() and "wrote both.html" in err


def test_slices_and_classes(run, place):
    split = ("--split", "train")
    arguments = (*ZERO_SHOT, "--slice_by", "class", "--html", "shapes.html", *split)
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    result = json.loads(out, parse_constant=pytest.fail)
    slices = result["slices"]
    for shape in SHAPES:
        name = f"zero_shot/top_1[{shape}]"
        assert slices[f"{name}/low"] <= slices[name] <= slices[f"{name}/high"]
        assert slices[f"{name}/items"] == 5
    of_classes = [slices[f"zero_shot/top_1[{shape}]"] for shape in SHAPES]
    mean = sum(of_classes) / len(SHAPES)
    assert math.isclose(mean, result["metrics"]["zero_shot/top_1"])
    shown = Page((place / "shapes.html").read_text(encoding="utf-8"))
    headings = ("By group", "Confusion matrix", "Accuracy by class")
    for heading in ("zero_shot on shapes, split train", *headings):
        assert heading in shown.words
    code, out, _ = run(*ZERO_SHOT, "--slice_by", "class")
    assert "│ zero_shot/top_1[ring]" in out and "95% interval" in out
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("protocol", ["knn", "linear_probe"])
def test_protocols_with_two_splits(run, place, protocol):
    """Both splits hold the same pictures, so that the nearest is the same one."""
    page = f"{protocol}.html"
    arguments = (protocol, "--data", "shapes", "--html", page)
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    metrics = json.loads(out)["metrics"]
    assert metrics["images"] == 25
    if protocol == "knn":
        assert metrics["knn/recall_at_1"] == 1.0
    assert "Confusion matrix" in Page((place / page).read_text("utf-8")).words


def test_records_agree_with_the_paper_tables():
    tables = {}
    for figure in paper_results():
        tables.setdefault(figure.protocol, set()).add(figure.table)
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and set(protocol.options) < set(OPTIONS)
        numbers = list(map(int, re.findall(r"\d+", protocol.table)))
        if protocol.table.startswith("table"):
            assert set(range(numbers[0], numbers[-1] + 1)) <= tables[name]
    assert set(tables) <= set(PROTOCOLS)


def as_printed(protocol, data, metrics, **options):
    """What `evaluate` would return, with these metrics."""
    splits = unusual_options(protocol, Request(data, **options))
    figures = {} if splits else figures_as_shares(protocol, data)
    about = {"model": "m", "protocol": protocol, "data": data, **splits}
    return about | {"metrics": metrics, "paper": figures}


def test_json_has_no_nan(capsys):
    metrics = {"all/spearman": math.nan, "pairs": 999.0}
    print_result(as_printed("simlex", "simlex999", metrics), as_json=True)
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert result["metrics"] == {"all/spearman": None, "pairs": 999.0}
    # In the metrics' unit.
    assert result["paper"]["ALIGN"]["all/spearman"] == 0.398
    print_json({"a": (math.inf, [-math.inf, "é"]), 2: 1})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": [None, [None, "é"]], "2": 1}


def test_another_split_stands_beside_no_figure_of_the_paper(capsys):
    metrics = {"i2t/recall_at_1": 0.5}
    for split, there in ((None, True), ("test", True), ("val", False)):
        result = as_printed("retrieval", "coco", metrics, split=split)
        assert bool(result["paper"]) == there
        assert result.get("split") == (None if there else "val")
        print_result(result)
        out = capsys.readouterr().out
        assert ("ALIGN" in out) == there and ("split val" in out) != there


def test_tables_fit_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for protocol, data, metrics in (
        ("retrieval", "coco", ["i2t/recall_at_10", "i2t/chance_recall_at_10"]),
        ("cxc_retrieval", "cxc", ["t2t/recall_at_10", "t2t/chance_recall_at_10"]),
        ("zero_shot", "imagenet2012", ["zero_shot/mean_per_class", "zero_shot/top_1"]),
        ("multi30k", "multi30k", ["en/mean_recall", "cs/t2i/recall_at_10"]),
        ("simlex", "simlex999", ["concreteness_1/spearman"]),
        ("knn", "imagenet2012", ["knn/recall_at_1"]),
    ):
        print_result(as_printed(protocol, data, dict.fromkeys(metrics, 0.5)))
        out = capsys.readouterr().out
        assert all(len(line) <= 80 for line in out.splitlines())
        for name in metrics:  # Whole, on one line.
            assert name in out or "chance" in name
        assert "50.0" in out


def test_names_are_no_markup(capsys):
    print_table(*ResultTable("[bold]t[/]", ("[red]a", "b"), [("[link=x]y", "[/]")]))
    out = capsys.readouterr().out
    for text in ("[bold]t[/]", "[red]a", "[link=x]y", "[/]"):
        assert text in out


CLIP = "clip:imagenet1k"


@pytest.mark.parametrize(
    "data", ["imagenet2012", "imagenet2012:5.1.0", "imagenet_r", "imagenet_a"]
)
def test_the_papers_prompts_are_the_default_beside_its_figures(data):
    request = checked_request("zero_shot", data=data)
    assert (request.templates, request.classes) == (CLIP, CLIP)
    assert unusual_options("zero_shot", request) == {}


@pytest.mark.parametrize(
    ("options", "unusual"),
    [
        ({"templates": "default"}, {"templates": "default"}),
        ({"classes": "names.txt"}, {"classes": "names.txt"}),
        ({"split": "train"}, {"split": "train"}),
        (
            {"templates": "photos", "classes": "names.txt"},
            {"templates": "photos", "classes": "names.txt"},
        ),
    ],
)
def test_other_prompts_stand_beside_no_figure_of_the_paper(
    capsys, monkeypatch, options, unusual
):
    # Without the package, a list of the user's own takes the package's prompts.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    request = checked_request("zero_shot", data="imagenet2012", **options)
    assert unusual_options("zero_shot", request) == unusual
    metrics = {"zero_shot/top_1": 0.5}
    given = {"templates": CLIP, "classes": CLIP} | options
    printed = as_printed("zero_shot", "imagenet2012", metrics, **given)
    print_result(printed)
    out = capsys.readouterr().out
    assert printed["paper"] == {} and "76.4" not in out and "50.0" in out
    for name, value in unusual.items():
        assert f"{name} {value}" in out


def test_given_class_names_need_no_clip_benchmark(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    request = checked_request("zero_shot", data="imagenet2012", classes="names.txt")
    assert (request.templates, request.classes) == ("default", "names.txt")


def test_other_data_keep_their_prompts():
    for data in ("stamps", "food101", "imagenet_v2/threshold-0.7"):
        request = checked_request("zero_shot", data=data)
        assert (request.templates, request.classes) == ("default", None)
