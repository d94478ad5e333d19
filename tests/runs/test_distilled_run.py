"""Tests of a run with a teacher: its losses, its resumption and its refusals."""

import json
import shutil

import pytest
import tensorflow as tf

import align_keras
from align_keras.config import load_config
from align_keras.training.checkpoints import checkpoints_in
from align_keras.utils.errors import InputError
from tests.helpers.small_run import SMALL, TINY, write_pairs

SIZES = f"{SMALL},task.model.image_encoder.num_stages=1"
TEACHER = "task.distillation.teacher=align_small_en"
TWO_TEACHERS = (
    "task.distillation.teacher=[align_small_en,{model: align_small_en, weight: 2}]"
)
# The embeddings of the teacher have 384 components, and those of the student 16.
SIMILARITIES_ONLY = (TEACHER, "task.distillation.embedding_weight=0")


def train(folder, *overrides):
    pairs = folder.parent / "pairs" / "pairs.jsonl"
    data = folder.parent / "data"
    all_overrides = [
        SIZES,
        f"task.train_data.pairs={pairs},task.validation_data.pairs={pairs}",
        f"task.train_data.tfds_data_dir={data},task.validation_data.tfds_data_dir={data}",
        *overrides,
    ]
    config = load_config(params_override=all_overrides)
    return align_keras.train_experiment(config, folder, with_evaluation=False)


def state_of(directory):
    """Returns the tensors of the newest checkpoint, without its save counter."""
    reader = tf.train.load_checkpoint(checkpoints_in(directory / "checkpoints")[0])
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if "save_counter" not in name and "OBJECT_GRAPH" not in name
    }


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Returns a folder with pairs, in which embeddings are cached too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_pairs(tmp_path / "pairs")
    return tmp_path


@pytest.mark.ci
def test_a_run_reports_the_losses_and_refuses_another_teacher(home):
    run_folder = home / "run"
    train(run_folder, TINY, TWO_TEACHERS, "task.distillation.embedding_weight=0")
    assert (home / "cache" / "align_keras" / "embeddings").is_dir()
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    metrics = json.loads(lines[-1])
    parts = ("loss_i2t", "loss_t2i", "loss_similarity")
    assert min(metrics[part] for part in parts) > 0
    total = sum(metrics[part] for part in parts)
    assert metrics["loss"] == pytest.approx(total, rel=1e-5)

    inputs = json.loads((run_folder / "inputs.json").read_text())
    fingerprint = align_keras.load_model("align_small_en").fingerprint
    assert inputs["teacher"] == f"{fingerprint} {fingerprint}"
    inputs["teacher"] = "0" * 16
    (run_folder / "inputs.json").write_text(json.dumps(inputs))
    with pytest.raises(InputError, match="distillation.teacher"):
        train(run_folder, TINY, TWO_TEACHERS, "task.distillation.embedding_weight=0")
    with pytest.raises(InputError, match="embedding_weight"):
        train(home / "two", TWO_TEACHERS)
    with pytest.raises(InputError, match="384"):
        train(home / "other_width", TEACHER)
    message = r"^task\.distillation\.teacher: .*'no_teacher'"
    with pytest.raises(InputError, match=message):
        train(home / "missing", "task.distillation.teacher=no_teacher")


@pytest.mark.release
def test_a_run_with_a_teacher_resumes_with_the_same_weights(home):
    run_folder, resumed = home / "run", home / "resumed"
    train(run_folder, *SIMILARITIES_ONLY)
    # The state is that of a kill between step 4 and step 8.
    shutil.copytree(run_folder, resumed)
    for path in (resumed / "checkpoints").glob("ckpt-8*"):
        path.unlink()
    for name in ("config.json", "metrics.jsonl"):
        (resumed / name).unlink()
    train(resumed, *SIMILARITIES_ONLY)
    expected, actual = state_of(run_folder), state_of(resumed)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert actual[name].tobytes() == value.tobytes(), name
