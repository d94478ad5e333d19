"""Tests of the folder of a run: its lock, its configuration and its recorded inputs."""

import contextlib
import importlib.util
import json

import pytest

from align_keras.cli.main import main
from align_keras.config import load_config
from align_keras.presets.layout import VOCABULARY_ASSET
from align_keras.runs.config_checks import check_run_config
from align_keras.runs.experiment import train_experiment
from align_keras.runs.resume_checks import check_inputs
from align_keras.runs.run_folder import lock_folder
from align_keras.utils.errors import InputError, MissingExtraError


def test_a_mistake_before_the_first_checkpoint_can_be_corrected(tmp_path):
    lock_folder(load_config("quickstart_icons"), tmp_path)
    vocabulary = tmp_path / VOCABULARY_ASSET
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_text("old")
    corrected = load_config("quickstart_icons", params_override="trainer.seed=3")
    lock_folder(corrected, tmp_path)
    assert load_config(config_files=[tmp_path / "params.yaml"]) == corrected
    assert not vocabulary.exists()


def test_a_checkpoint_binds_the_folder(tmp_path):
    config = load_config("quickstart_icons")
    lock_folder(config, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-200.index").touch()
    lock_folder(config, tmp_path)
    override = "trainer.seed=3,trainer.max_to_keep=9"
    changed = load_config("quickstart_icons", params_override=override)
    with pytest.raises(InputError, match=r"trainer.seed .*\(trainer.max_to_keep "):
        lock_folder(changed, tmp_path)
    assert load_config(config_files=[tmp_path / "params.yaml"]) == config


def test_former_values_of_changed_options_are_saved(tmp_path, capsys):
    config = load_config("quickstart_icons")
    lock_folder(config, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-200.index").touch()
    longer = load_config("quickstart_icons", params_override="trainer.train_steps=5000")
    lock_folder(longer, tmp_path)
    message = capsys.readouterr().err
    assert "trainer.train_steps" in message and "5000" in message
    assert load_config(config_files=[tmp_path / "params.yaml"]) == longer
    former_params = tmp_path / "params.until_step_200.yaml"
    assert load_config(config_files=[former_params]) == config

    # A second change before the next checkpoint keeps the file.
    longest = load_config(
        "quickstart_icons", params_override="trainer.train_steps=6000"
    )
    lock_folder(longest, tmp_path)
    assert load_config(config_files=[former_params]) == config
    assert load_config(config_files=[tmp_path / "params.yaml"]) == longest


def test_a_folder_with_a_saved_model_is_refused_before_the_training(tmp_path):
    (tmp_path / "align" / "1").mkdir(parents=True)
    with pytest.raises(InputError, match="model_dir"):
        lock_folder(load_config("quickstart_icons"), tmp_path)
    assert not (tmp_path / "params.yaml").exists()


def test_a_run_continues_on_another_tpu(tmp_path):
    on_tpu = "runtime.distribution_strategy=tpu,runtime.tpu"
    config = load_config("quickstart_icons", params_override=f"{on_tpu}=first")
    lock_folder(config, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-200.index").touch()
    other = load_config("quickstart_icons", params_override=f"{on_tpu}=second")
    lock_folder(other, tmp_path)
    assert load_config(config_files=[tmp_path / "params.yaml"]) == other


def test_an_evaluation_has_the_configuration_of_the_run(tmp_path):
    config = load_config("quickstart_icons")
    lock_folder(config, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-200.index").touch()
    lock_folder(config, tmp_path, is_read_only=True)
    other_pairs = load_config(
        "quickstart_icons", params_override="task.validation_data.corpus=stamps/de"
    )
    lock_folder(other_pairs, tmp_path, is_read_only=True)
    assert load_config(config_files=[tmp_path / "params.yaml"]) == config
    size = "task.model.image_encoder.image_size"
    changed = load_config("quickstart_icons", params_override=f"{size}=96")
    with pytest.raises(InputError, match=size):
        lock_folder(changed, tmp_path, is_read_only=True)


def test_an_evaluation_of_a_new_folder_writes_nothing(tmp_path, capsys):
    command = ["train", "--experiment=quickstart_icons", f"--model_dir={tmp_path}"]
    assert main([*command, "--mode=eval"]) == 1
    assert "no checkpoint" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_finished_model_without_checkpoints_is_not_replaced(tmp_path):
    lock_folder(load_config("quickstart_icons"), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    changed = load_config("quickstart_icons", params_override="trainer.seed=3")
    with pytest.raises(InputError, match="another configuration"):
        lock_folder(changed, tmp_path)


def test_a_second_command_on_the_same_folder_is_refused(tmp_path, capsys):
    config = load_config("quickstart_icons")
    train = ["train", "--experiment=quickstart_icons", f"--model_dir={tmp_path}"]
    with lock_folder(config, tmp_path):
        capsys.readouterr()
        before = (tmp_path / "params.yaml").read_bytes()
        for command in (train, ["quickstart", f"--model_dir={tmp_path}"]):
            assert main([*command, "--params_override=trainer.seed=3"]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert "--model_dir" in line and "another process" in line
        assert (tmp_path / "params.yaml").read_bytes() == before
    lock_folder(config, tmp_path)


def test_each_worker_of_a_run_has_a_lock(tmp_path, monkeypatch):
    override = "runtime.distribution_strategy=multi_worker_mirrored"
    config = load_config("quickstart_icons", params_override=override)
    with contextlib.ExitStack() as workers:
        for index in (0, 1):
            task = {"type": "worker", "index": index}
            monkeypatch.setenv("TF_CONFIG", json.dumps({"task": task}))
            workers.enter_context(lock_folder(config, tmp_path))
        with pytest.raises(InputError, match="one process"):
            lock_folder(config, tmp_path)


def write_table(path):
    path.write_text("image\tcaption\na.png\tA cat\n")
    (path.parent / "a.png").touch()


BEST_CHECKPOINT = "trainer.best_checkpoint_eval_metric=t2i/recall_at_1"


@pytest.mark.parametrize(
    "validation, name",
    [
        ("corpus=icons", "tfds_split"),
        ("corpus=icons,task.validation_data.tfds_split=all", "tfds_split"),
        ("corpus=icons,task.validation_data.tfds_split='train[:9]+test'", "tfds_split"),
        (
            "corpus=pairs,task.validation_data.pairs={}/a.tsv,"
            "task.validation_data.tfds_split=test",
            "tfds_split",
        ),
        (
            "corpus=pairs,task.validation_data.pairs={}/karpathy_test.tsv,"
            "task.validation_data.tfds_split=all",
            "pairs",
        ),
    ],
)
def test_test_pairs_do_not_choose_the_best_checkpoint(tmp_path, validation, name):
    for table in ("a.tsv", "karpathy_test.tsv"):
        write_table(tmp_path / table)
    overrides = f"task.train_data.corpus=stamps/de,task.validation_data.{validation}"
    overrides = overrides.format(tmp_path)
    check_run_config(load_config(params_override=overrides), has_checkpoint=False)
    with pytest.raises(InputError, match=rf"validation_data\.{name}"):
        check_run_config(
            load_config(params_override=[overrides, BEST_CHECKPOINT]), False
        )
    allowed = [overrides, BEST_CHECKPOINT, "trainer.best_checkpoint_by_test=true"]
    check_run_config(load_config(params_override=allowed), has_checkpoint=False)


def test_validation_pairs_may_choose_the_best_checkpoint(tmp_path):
    write_table(tmp_path / "karpathy_val.tsv")
    for overrides in (
        f"pairs={tmp_path}/karpathy_val.tsv,task.validation_data.tfds_split=all,"
        "task.validation_data.corpus=pairs",
        "corpus=icons,task.validation_data.tfds_split='train[:10%]',"
        "task.train_data.tfds_split='train[10%:]'",
    ):
        overrides = f"task.train_data.corpus=icons,task.validation_data.{overrides}"
        config = load_config(params_override=[overrides, BEST_CHECKPOINT])
        check_run_config(config, has_checkpoint=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "task.train_data.corpus must"),
        (["--params_override=task.train_data.corpus=pairs"], "train_data.pairs"),
        (["--experiment=align_b7_base"], "train.tsv"),
        (["--experiment=align_b7"], "mean 'align_b7_base'"),
    ],
)
def test_missing_pairs_write_nothing(tmp_path, capsys, arguments, message):
    run = tmp_path / "run"
    assert main(["train", f"--model_dir={run}", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not run.exists()


def test_a_missing_package_of_a_tracker_writes_nothing(tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec

    def find_spec_without_wandb(name, *arguments):
        return None if name == "wandb" else find_spec(name, *arguments)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec_without_wandb)
    run = tmp_path / "run"
    overrides = "trainer.callbacks=[tensorboard,wandb],task.train_data.corpus=icons"
    arguments = ["--experiment=quickstart_icons", f"--params_override={overrides}"]
    assert main(["train", f"--model_dir={run}", *arguments]) == 1
    [error] = capsys.readouterr().err.splitlines()
    assert "align-keras[wandb]" in error
    assert not run.exists()


def test_the_folder_of_a_run_has_no_query_strings(tmp_path):
    # No server listens on port 9.
    address = "http://127.0.0.1:9/pairs.txt"
    pairs = {"task.train_data.pairs": f"{address}?sig=hunter2"}
    data = {**pairs, "task.validation_data.corpus": "icons"}
    config = load_config(params_override=data)
    with pytest.raises((OSError, MissingExtraError)):
        train_experiment(config, tmp_path)
    text = (tmp_path / "params.yaml").read_text()
    assert address in text and "hunter2" not in text


INPUTS = {
    "train_images": 320,
    "train_pairs": "a",
    "vocabulary": "v",
    "base_model": "m",
}


def write_run(directory):
    """Writes the folder of a run with a checkpoint and the record of its inputs."""
    check_inputs(directory, {"vocabulary": "before"})
    for name, value in INPUTS.items():
        check_inputs(directory, {name: value})
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints" / "ckpt-60.index").touch()
    return directory


def test_a_run_resumes_with_its_inputs(tmp_path):
    check_inputs(write_run(tmp_path), INPUTS)
    check_inputs(tmp_path, {"vocabulary": "v"})
    pairs = {name: INPUTS[name] for name in ("train_images", "train_pairs")}
    check_inputs(tmp_path, pairs)
    assert json.loads((tmp_path / "inputs.json").read_text()) == INPUTS


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_pairs": "b"}, "ids or pixels differ.* 320"),
        (
            {"train_pairs": "b", "train_images": 200},
            "320 images .* 200",
        ),
        (
            {"vocabulary": "w"},
            r"vocabulary\.txt must have",
        ),
        ({"base_model": "n"}, "finetune.model must have"),
    ],
)
def test_changed_inputs_are_refused(tmp_path, changed, message):
    write_run(tmp_path)
    for read_only in (True, False):
        with pytest.raises(InputError, match=message):
            check_inputs(tmp_path, INPUTS | changed, read_only)
    assert json.loads((tmp_path / "inputs.json").read_text()) == INPUTS


def test_inputs_may_change_before_the_first_checkpoint(tmp_path):
    check_inputs(tmp_path, INPUTS)
    check_inputs(tmp_path, INPUTS | {"train_pairs": "b"})
    assert json.loads((tmp_path / "inputs.json").read_text())["train_pairs"] == "b"
    # The vocabulary was learned from the captions of the former pairs.
    vocabulary = tmp_path / VOCABULARY_ASSET
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_text("[PAD]")
    check_inputs(tmp_path, INPUTS | {"train_pairs": "b"})
    assert vocabulary.exists()
    check_inputs(tmp_path, INPUTS | {"train_pairs": "c"})
    assert not vocabulary.exists()


def test_a_run_without_a_record_of_its_inputs_gets_a_record(tmp_path):
    write_run(tmp_path)
    (tmp_path / "inputs.json").unlink()
    check_inputs(tmp_path, INPUTS, is_read_only=True)
    assert not (tmp_path / "inputs.json").exists()
    check_inputs(tmp_path, INPUTS)
    with pytest.raises(InputError, match="train_data"):
        check_inputs(tmp_path, INPUTS | {"train_pairs": "b"})
