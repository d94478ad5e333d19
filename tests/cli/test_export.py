"""`align-keras export`: SavedModels, model cards, help and wrong inputs."""

import json
import os
import shutil
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from align_keras.cli import export as cli
from align_keras.cli.main import main
from align_keras.export.model_card import model_card
from align_keras.export.saved_model import export_saved_model, write_served
from align_keras.export.served_model import ServedModel
from align_keras.models import ALIGN
from align_keras.runs import model_export
from align_keras.runs.card_facts import about_run, save_data_notes
from align_keras.runs.model_export import export_model
from align_keras.utils.errors import InputError


@pytest.fixture(scope="module")
def run_folder(small_model):
    """Folder of a run with a model, metrics and notes on its data."""
    save_data_notes(small_model, {"icons": {"summary": ["12 pairs kept"], "x": 1}})
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "t2i/recall_at_1": 0.25}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (small_model / "metrics.jsonl").write_text(text)
    return small_model


def test_a_run_is_exported_with_its_card(run_folder, tmp_path, capsys, monkeypatch):
    calls = []
    monkeypatch.setitem(
        model_export.WRITERS, "saved_model", lambda *_, weights: calls.append(weights)
    )
    target = tmp_path / "served"
    arguments = ["export", "--model", str(run_folder), "--to", str(target)]
    assert main([*arguments, "--weights", "bfloat16"]) == 0
    assert f"wrote {target}" in capsys.readouterr().err
    assert calls == ["bfloat16"]
    card = (target / "README.md").read_text()
    assert "- icons\n  - 12 pairs kept" in card and "| t2i/recall_at_1 | 0.25 |" in card
    assert "loss" not in card
    # An existing export is not overwritten.
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "--to" in error and "contains files" in error


@pytest.fixture(scope="module")
def model(small_model):
    return ALIGN.from_preset(small_model)


@pytest.fixture(scope="module")
def mixed(run_folder, tmp_path_factory):
    """Folder of the same model after a run in mixed precision."""
    path = tmp_path_factory.mktemp("mixed")
    ALIGN.from_preset(run_folder, dtype="mixed_bfloat16").save_to_preset(path)
    return path


def test_a_converted_model_has_float32_and_a_card(mixed, tmp_path, monkeypatch):
    exported_models = []
    monkeypatch.setattr(model_export, "check_format_packages", lambda *_: None)
    monkeypatch.setitem(
        model_export.WRITERS,
        "onnx",
        lambda align, *_, **options: exported_models.append(align),
    )
    arguments = ["--model", str(mixed), "--to", str(tmp_path / "export"), "onnx"]
    assert main(["export", *arguments, "--license", "CC0"]) == 0
    # Converters support float32 only.
    for encoder in (exported_models[0].image_encoder, exported_models[0].text_encoder):
        assert encoder.dtype_policy.name == "float32"
    card = (tmp_path / "export" / "README.md").read_text()
    for words in (
        f"`{mixed.name}`",
        "| license | CC0 |",
        "Limits",
        "No evaluation was recorded",
    ):
        assert words in card
    assert "signatures.json" not in card


def create_evaluation_report(model):
    """Returns the output of `evaluate --json` for a model.

    A group has the character that separates the cells of a Markdown table.
    """
    slices = {"t2i/recall_at_1[a|b]": 0.5, "t2i/recall_at_1[a|b]/low": 0.375}
    slices |= {"t2i/recall_at_1[a|b]/high": 0.625, "t2i/recall_at_1[a|b]/items": 64.0}
    report = {"model": str(model), "protocol": "retrieval", "data": "stamps"}
    report |= {"split": "train", "metrics": {"t2i/recall_at_1": 0.25, "i2t/x": None}}
    return report | {"slice_by": "category", "slices": slices}


def test_the_model_card_lists_the_metrics_of_groups(mixed, tmp_path, monkeypatch):
    """Section 10 of the paper recommends to measure groups before any use."""
    path, target = tmp_path / "report.json", tmp_path / "export"
    path.write_text(json.dumps(create_evaluation_report(mixed)))
    monkeypatch.setitem(model_export.WRITERS, "saved_model", lambda *_: None)
    arguments = ["export", "--model", str(mixed), "--to", str(target)]
    assert main([*arguments, "--evaluation", str(path)]) == 0
    card = (target / "README.md").read_text()
    assert "### retrieval on stamps, split train\n" in card
    assert "| t2i/recall_at_1 | 0.25 |\n| i2t/x | – |\n" in card
    assert "By `category`, with 95%" in card
    assert "| t2i/recall_at_1[a\\|b] | 0.5 | 0.375–0.625 | 64 |\n" in card
    assert "signatures.json" in card and "No evaluation" not in card


def test_an_evaluation_in_memory_is_in_the_model_card(model, tmp_path, monkeypatch):
    monkeypatch.setitem(model_export.WRITERS, "saved_model", lambda *_: None)
    report = create_evaluation_report("in memory")
    export_model(model, tmp_path / "export", evaluation=[report])
    card = (tmp_path / "export/README.md").read_text()
    assert "### retrieval on stamps, split train\n" in card
    assert "No evaluation" not in card


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda report: report.pop("metrics"), "align-keras evaluate"),
        (lambda report: report.update(model="another"), "evaluation of another"),
        (None, "align-keras evaluate"),
    ],
)
def test_a_wrong_evaluation_is_refused_before_the_export(
    mixed, tmp_path, capsys, damage, words
):
    path, report = tmp_path / "report.json", create_evaluation_report(mixed)
    if damage is not None:
        damage(report)
        path.write_text(json.dumps(report))
    arguments = ["export", "--model", str(mixed), "--to", str(tmp_path / "export")]
    assert main([*arguments, "--evaluation", str(path)]) == 1
    error = capsys.readouterr().err
    assert "--evaluation" in error and words in error and error.count("\n") == 1
    assert not (tmp_path / "export").exists()


@pytest.mark.release
def test_a_saved_model_of_mixed_precision_returns_float32(mixed, tmp_path):
    align = ALIGN.from_preset(mixed)
    assert align.image_encoder.dtype_policy.name == "mixed_bfloat16"
    write_served(ServedModel(align), tmp_path)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures
    pixels = np.arange(1200, dtype="uint8").reshape(20, 20, 3)
    png = tf.io.encode_png(pixels).numpy()
    for outputs, inputs in (
        (served["encode_image"](image_bytes=tf.constant([png])), [png]),
        (served["encode_text"](captions=tf.constant(["a red ring"])), ["a red ring"]),
    ):
        encode = align.encode_images if "valid" in outputs else align.encode_texts
        embedding = outputs[
            "image_embedding" if "valid" in outputs else "text_embedding"
        ]
        assert embedding.dtype == tf.float32
        # bfloat16 rounds with a relative error of 2^-9 in each of about ten layers.
        np.testing.assert_allclose(embedding, encode(inputs), atol=0.02)


@pytest.mark.ci
def test_a_run_is_exported_to_onnx(mixed, tmp_path):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    target = tmp_path / "onnx"
    arguments = ["export", "--model", str(mixed), "--to", str(target)]
    assert main([*arguments, "onnx", "--license", "CC0"]) == 0
    assert {path.name for path in target.iterdir()} == {
        "image.onnx",
        "text.onnx",
        "README.md",
    }
    metadata = onnxruntime.InferenceSession(target / "text.onnx").get_modelmeta()
    assert metadata.custom_metadata_map["LICENSE.txt"] == "CC0\n"


IMAGE_FOLDER_OPTION = ["--images", os.path.dirname(__file__)]


@pytest.mark.parametrize(
    "options, package, extra",
    [
        (["litert"], "ai_edge_litert", "litert"),
        (["web"], "ai_edge_litert", "litert"),
        (["web"], "litert_quantizer", "litert"),
        (["onnx"], "tf2onnx", "onnx"),
    ],
)
def test_missing_packages_are_reported_before_the_model_is_opened(
    tmp_path, capsys, monkeypatch, options, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    target = str(tmp_path / "export")
    # The remedy for a package does not help if the model does not exist.
    assert main(["export", "--model", "nowhere", "--to", target, *options]) == 1
    assert "--model='nowhere'" in capsys.readouterr().err
    # This model cannot be opened, so the package is checked before that.
    model = tmp_path / "damaged"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert main(["export", "--model", str(model), "--to", target, *options]) == 1
    error = capsys.readouterr().err
    assert f"needs {package}" in error
    assert f'pip install "align-keras[{extra}]"' in error


def test_the_help_of_a_format_lists_its_options(capsys):
    for export_format, listed, unlisted in (
        ("saved_model", ("--weights",), ("--quantize", "--title", "--license")),
        ("litert", ("--quantize", "--data ", "--resizable"), ("--weights", "--title")),
        ("web", ("--images", "--title"), ("--resizable", "--data ")),
        ("onnx", ("--license",), ("--quantize", "--images")),
    ):
        with pytest.raises(SystemExit):
            main(["export", export_format, "--help"])
        text = capsys.readouterr().out
        assert all(option in text for option in (*listed, "--model", "--to"))
        assert not any(option in text for option in unlisted), text


@pytest.mark.parametrize(
    "words",
    [
        ["litert", "--license=CC0", "--images=p.csv", "--image-column=i"],
        ["--license", "CC0", "litert", "--images", "p.csv"],
    ],
)
def test_options_may_come_before_or_after_the_format(monkeypatch, words):
    calls = []
    monkeypatch.setattr(
        cli, "export_model", lambda *_, **options: calls.append(options)
    )
    assert main(["export", "--model", "m", "--to", "d", *words]) == 0
    assert calls[0]["images"] == "p.csv" and calls[0]["license"] == "CC0"


def test_a_model_in_memory_is_exported(model, tmp_path, monkeypatch):
    exported = []
    monkeypatch.setitem(
        model_export.WRITERS,
        "saved_model",
        lambda *arguments: exported.append(arguments),
    )
    export_model(model, tmp_path / "new")
    assert exported[0][0] is model
    assert "Model card" in (tmp_path / "new" / "README.md").read_text()
    for target, export_format, message in (
        ("other", "jpeg", "format.*saved_model, litert, web, onnx"),
        ("new", "saved_model", "to must.*contains files"),
    ):
        with pytest.raises(InputError, match=message):
            export_model(model, tmp_path / target, export_format)


def test_a_page_is_quantized_unless_the_user_refuses(model, tmp_path, monkeypatch):
    quantizations = []
    monkeypatch.setattr(model_export, "check_format_packages", lambda *_: None)
    monkeypatch.setitem(
        model_export.WRITERS,
        "web",
        lambda *_, quantize, **options: quantizations.append(quantize),
    )
    export_model(model, tmp_path / "default", "web")
    export_model(model, tmp_path / "float", "web", quantize="none")
    assert quantizations == ["weight-int8", "none"]


def test_a_link_is_followed_and_files_of_a_killed_export_are_removed(
    run_folder, tmp_path, capsys, monkeypatch
):
    (tmp_path / "link").symlink_to("real")
    (tmp_path / ".real.0123abcd.tmp").mkdir()
    arguments = ["export", "--model", str(run_folder), "--to", str(tmp_path / "link")]
    monkeypatch.setitem(model_export.WRITERS, "saved_model", _write_a_file)
    assert main(arguments) == 0
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    assert (tmp_path / "link" / "a").read_text() == "1"


def _write_a_file(align, folder, model):
    # The folder is the only temporary file, so a killed export leaves no other.
    (temporary_folder,) = folder.parent.glob(".*.tmp")
    assert temporary_folder == folder
    (folder / "a").write_text("1")


def test_a_damaged_model_creates_no_export(run_folder, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    ignored = shutil.ignore_patterns("*.h5", "checkpoints", "export", "index")
    shutil.copytree(run_folder, damaged, ignore=ignored)
    (damaged / "model.weights.h5").write_bytes(b"junk")
    arguments = ["--model", str(damaged), "--to", str(tmp_path / "served")]
    assert main(["export", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert "is damaged" in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


@pytest.mark.ci
def test_weights_that_are_not_finite_are_not_exported(run_folder, tmp_path, capsys):
    model = ALIGN.from_preset(run_folder)
    kernel = model.image_encoder.get_layer("stem").kernel
    kernel.assign(np.where(np.arange(kernel.shape[-1]) == 1, np.nan, kernel.numpy()))
    model.save_to_preset(tmp_path / "diverged")
    for name in ("saved_model", "onnx"):
        arguments = ["export", "--model", str(tmp_path / "diverged"), name]
        assert main([*arguments, "--to", str(tmp_path / "served")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "finite weights" in line
        assert "in 1 of" in line and "stem" in line
    with pytest.raises(InputError, match="finite weights"):
        export_saved_model(model, tmp_path / "served")
    assert [path.name for path in tmp_path.iterdir()] == ["diverged"]


def test_a_card_has_no_absolute_path_of_the_training_table(tmp_path):
    table = tmp_path / "my data" / "pairs.csv"
    summary = [f"1 dropped, missing: pairs.csv line 2: no file {table.parent}/a.png"]
    save_data_notes(tmp_path, {str(table): {"summary": summary}, "icons": {}})
    model = types.SimpleNamespace(image_size=64, dimension=8, runtime="onnx")
    origin = about_run(tmp_path, f"align-keras quickstart --pairs {table}")
    report = {"protocol": "retrieval", "data": str(table), "metrics": {}}
    card = model_card(model, **origin, measured=[report])
    assert str(tmp_path) not in card
    assert (
        "- pairs.csv\n  - 1 dropped, missing: pairs.csv line 2: no file a.png" in card
    )
