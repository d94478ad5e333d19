"""`align-keras evaluate` with one protocol: output, page, help and wrong inputs."""

import importlib.util
import json
import math
import re

import pytest

from align_keras.cli.common import print_json, print_table
from align_keras.cli.evaluate import print_result
from align_keras.cli.main import main
from align_keras.embedders.litert_embedder import LiteRTEmbedder
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
from tests.helpers.color_towers import GOLDEN
from tests.helpers.pages import Page
from tests.helpers.small_run import COLORS, SHAPES, draw, write_pairs


@pytest.fixture(scope="module")
def work_folder(tmp_path_factory):
    """Folder with a model, captioned images, and images in one folder per class."""
    work_folder = tmp_path_factory.mktemp("evaluate")
    write_pairs(work_folder / "pairs")
    (work_folder / "pairs" / "red_ring.png").write_bytes(b"no image")
    for split in ("train", "test"):
        for shape in SHAPES:
            (work_folder / "shapes" / split / shape).mkdir(parents=True)
            for color in COLORS[:5]:
                path = work_folder / "shapes" / split / shape / f"{color}.png"
                draw(color, shape).save(path)
    return work_folder


@pytest.fixture
def run(work_folder, capsys, monkeypatch):
    """Function that runs the command and returns exit code, stdout and stderr."""
    monkeypatch.chdir(work_folder)

    def run(*arguments, model=str(GOLDEN)):
        model = ["--model", model] if model else []
        cache = [] if "--cache" in arguments else ["--cache", "cache"]
        code = main(["evaluate", *arguments, *model, *cache])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


RETRIEVAL = ("retrieval", "--data", "pairs/pairs.jsonl")
ZERO_SHOT = ("zero_shot", "--data", "shapes")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((*RETRIEVAL, "--slice_by", "size"), "--slice-by.*'size'"),
        ((*ZERO_SHOT, "--slice_by", "x"), "--slice-by.*class"),
        ((*ZERO_SHOT, "--templates", "nowhere"), "--templates"),
        ((*ZERO_SHOT, "--classes", "nowhere"), "nowhere"),
        ((*ZERO_SHOT, "--split", "validation"), "validation"),
        ((*RETRIEVAL, "--split", ""), "--split.*empty"),
        ((*RETRIEVAL, "--workers", "2"), "--workers.*imagenet_frozen"),
        ((*ZERO_SHOT, "--allow_missing"), "--allow-missing.*retrieval"),
        ((*RETRIEVAL[:2], "stamps", "--allow_missing"), "--allow-missing"),
    ],
)
def test_wrong_options_open_no_model(run, arguments, message, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the model was opened")

    monkeypatch.setattr("align_keras.protocols.run_protocol.load_model", refuse)
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert re.search(message, err), err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["vtab"], "tfds build caltech101"),
        (["fine_grained", "--data", "cars196"], "tfds build cars196"),
        (
            ["vtab", "--workers", "2", "--params_override"]
            + ["runtime.distribution_strategy=one_device"],
            "--workers",
        ),
    ],
)
def test_wrong_inputs_of_protocols_that_train_are_refused(
    capsys, tmp_path, monkeypatch, small_model, arguments, message
):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    assert main(["evaluate", *arguments, "--model", str(small_model)]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_the_help_of_a_protocol_lists_its_options(capsys):
    def read_help(*arguments):
        with pytest.raises(SystemExit):
            main(["evaluate", *arguments, "--help"])
        return capsys.readouterr().out

    assert all(name in read_help() for name in PROTOCOLS)
    for protocol in PROTOCOLS.values():
        help_text = read_help(protocol.name)
        listed = re.findall(r"^  --([a-z][\w-]*)", help_text, re.MULTILINE)
        listed = {name.replace("-", "_") for name in listed}
        expected = {name for name in OPTIONS if protocol.takes(name)}
        assert listed == expected | {"model", "html", "cache", "json"}


def test_options_have_any_order_and_hyphens_or_underscores():
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


def test_retrieval_prints_a_table_and_writes_a_page(run, work_folder):
    page = work_folder / "results" / "page.html"
    code, out, err = run(*RETRIEVAL, "--html", str(page))
    assert code == 0
    # stdout has only the table, in 80 columns. Messages are on stderr.
    lines = out.splitlines()
    assert lines[0].strip() == "retrieval on pairs/pairs.jsonl"
    assert all(len(line) <= 80 for line in lines)
    assert re.search(r"│ images_left_out *│ *1 │", out)
    assert re.search(r"│ t2i/recall_at_10, % *│ *\d+\.\d │ *\d+\.\d\d │", out)
    assert lines[-1] == "runtime: litert"
    assert "1 of 40 images" in err
    assert err.splitlines()[-1] == f"wrote {page}"
    page_content = Page(page.read_text(encoding="utf-8"))
    assert "retrieval on pairs/pairs.jsonl" in page_content.words
    assert page_content.attributes("img") and "Text → image" in page_content.words
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


def test_only_json_is_printed_on_stdout(run, work_folder, monkeypatch):
    """The second run reads all embeddings from the cache and also writes a page."""
    first_run = run(*RETRIEVAL, "--json")
    result = json.loads(first_run[1], parse_constant=pytest.fail)
    assert (result["model"], result["protocol"], result["paper"]) == (
        str(GOLDEN),
        "retrieval",
        {},
    )
    assert result["runtime"] == "litert" and result["metrics"]["images"] == 39
    assert 0 <= result["metrics"]["i2t/recall_at_1"] <= 1

    def refuse(*arguments, **options):
        raise AssertionError("the embeddings must come from the cache")

    for name in ("encode_images", "encode_texts"):
        monkeypatch.setattr(LiteRTEmbedder, name, refuse)
    code, out, err = run(*RETRIEVAL, "--json", "--html", "both.html")
    assert (code, json.loads(out)) == (0, result)
    assert (work_folder / "both.html").exists() and "wrote both.html" in err


def test_slices_by_class_are_printed_and_in_the_page(run, work_folder):
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
    class_accuracies = [slices[f"zero_shot/top_1[{shape}]"] for shape in SHAPES]
    mean = sum(class_accuracies) / len(SHAPES)
    assert math.isclose(mean, result["metrics"]["zero_shot/top_1"])
    page_content = Page((work_folder / "shapes.html").read_text(encoding="utf-8"))
    headings = ("By group", "Confusion matrix", "Accuracy by class")
    for heading in ("zero_shot on shapes, split train", *headings):
        assert heading in page_content.words
    code, out, _ = run(*ZERO_SHOT, "--slice_by", "class")
    assert "│ zero_shot/top_1[ring]" in out and "95% interval" in out
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("protocol", ["knn", "linear_probe"])
def test_protocols_with_two_splits_run(run, work_folder, protocol):
    """Both splits have the same images, so the nearest image is the image itself."""
    page = f"{protocol}.html"
    arguments = (protocol, "--data", "shapes", "--html", page)
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    metrics = json.loads(out)["metrics"]
    assert metrics["images"] == 25
    if protocol == "knn":
        assert metrics["knn/recall_at_1"] == 1.0
    assert "Confusion matrix" in Page((work_folder / page).read_text("utf-8")).words


def test_recorded_results_cover_the_tables_of_the_paper():
    tables = {}
    for figure in paper_results():
        tables.setdefault(figure.protocol, set()).add(figure.table)
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and set(protocol.options) < set(OPTIONS)
        numbers = list(map(int, re.findall(r"\d+", protocol.table)))
        if protocol.table.startswith("table"):
            assert set(range(numbers[0], numbers[-1] + 1)) <= tables[name]
    assert set(tables) <= set(PROTOCOLS)


def result_of(protocol, data, metrics, **options):
    """Returns a result of `evaluate` with these metrics."""
    splits = unusual_options(protocol, Request(data, **options))
    figures = {} if splits else figures_as_shares(protocol, data)
    facts = {"model": "m", "runtime": "keras", "protocol": protocol, "data": data}
    return facts | splits | {"metrics": metrics, "paper": figures}


def test_json_has_null_instead_of_nan(capsys):
    metrics = {"all/spearman": math.nan, "pairs": 999.0}
    print_result(result_of("simlex", "simlex999", metrics), as_json=True)
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert result["metrics"] == {"all/spearman": None, "pairs": 999.0}
    # The results of the paper have the unit of the metrics.
    assert result["paper"]["ALIGN"]["all/spearman"] == 0.398
    print_json({"a": (math.inf, [-math.inf, "é"]), 2: 1})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": [None, [None, "é"]], "2": 1}


def test_another_split_is_not_compared_with_the_paper(capsys):
    metrics = {"i2t/recall_at_1": 0.5}
    for split, is_usual in ((None, True), ("test", True), ("val", False)):
        result = result_of("retrieval", "coco", metrics, split=split)
        assert bool(result["paper"]) == is_usual
        assert result.get("split") == (None if is_usual else "val")
        print_result(result)
        out = capsys.readouterr().out
        assert ("ALIGN" in out) == is_usual and ("split val" in out) != is_usual


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
        print_result(result_of(protocol, data, dict.fromkeys(metrics, 0.5)))
        out = capsys.readouterr().out
        assert all(len(line) <= 80 for line in out.splitlines())
        # The names of metrics do not wrap.
        for name in metrics:
            assert name in out or "chance" in name
        assert "50.0" in out


def test_tables_do_not_interpret_markup(capsys):
    print_table(*ResultTable("[bold]t[/]", ("[red]a", "b"), [("[link=x]y", "[/]")]))
    out = capsys.readouterr().out
    for text in ("[bold]t[/]", "[red]a", "[link=x]y", "[/]"):
        assert text in out


CLIP = "clip:imagenet1k"


@pytest.mark.parametrize(
    "data", ["imagenet2012", "imagenet2012:5.1.0", "imagenet_r", "imagenet_a"]
)
def test_the_prompts_of_the_paper_are_the_default(data):
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
def test_other_prompts_are_not_compared_with_the_paper(
    capsys, monkeypatch, options, unusual
):
    # The test pretends that clip-benchmark is installed. Without the package, the class
    # names of a user have other default prompts.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    request = checked_request("zero_shot", data="imagenet2012", **options)
    assert unusual_options("zero_shot", request) == unusual
    metrics = {"zero_shot/top_1": 0.5}
    options = {"templates": CLIP, "classes": CLIP} | options
    result = result_of("zero_shot", "imagenet2012", metrics, **options)
    print_result(result)
    out = capsys.readouterr().out
    assert result["paper"] == {} and "76.4" not in out and "50.0" in out
    for name, value in unusual.items():
        assert f"{name} {value}" in out


def test_user_class_names_do_not_need_clip_benchmark(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    request = checked_request("zero_shot", data="imagenet2012", classes="names.txt")
    assert (request.templates, request.classes) == ("default", "names.txt")


def test_other_data_sets_have_the_default_prompts():
    for data in ("stamps", "food101", "imagenet_v2/threshold-0.7"):
        request = checked_request("zero_shot", data=data)
        assert (request.templates, request.classes) == ("default", None)
