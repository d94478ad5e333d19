"""Tests of the ablation and fine-tuning experiments and of their planned durations."""

import json
import re

import pytest
import yaml

from align_keras.config import changed_keys, load_config
from tests.helpers.headers import (
    ABLATIONS,
    FILES,
    flatten,
    header_of,
    read_checked_header,
)


def base_of(name):
    """Returns the experiment that an ablation changes, from its command."""
    command = header_of(ABLATIONS[name].read_text(encoding="utf-8"))["Command"]
    return re.search(r"align-keras train --experiment (\w+)", command).group(1)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_the_option_in_its_name(name):
    path, base = ABLATIONS[name], base_of(name)
    command = read_checked_header(path)["Command"]
    assert f"--config_file experiments/ablations/{name}.yaml " in command
    config = load_config(base, config_files=[path])
    options = dict(flatten(yaml.safe_load(path.read_text(encoding="utf-8"))))
    changed = changed_keys(load_config(base), config)
    assert set(changed) == set(options)
    kind, _, value = name.partition("_")
    expected = {
        "width": {"task.model.projection_dim"},
        "negatives": {"task.loss.contrastive.negatives_fraction"},
        "temperature": {
            "task.model.initial_temperature",
            "task.model.learn_temperature",
        },
        "image": {"task.model.image_encoder.variant"},
        "text": {"task.model.text_encoder.variant"},
        "data": {
            f"task.train_data.{'pairs' if value == 'cc3m' else 'tfds_split'}",
            *(() if value == "10_percent" else {"trainer.train_steps"}),
        },
    }
    assert set(changed) == expected[kind]
    # Section 6.2: training on CC-3M, and on the data next to it in table 10, takes a
    # tenth of the steps.
    steps = 100_000 if "trainer.train_steps" in changed else 1_000_000
    assert config.trainer.train_steps == steps
    new_values = [new for _, new in changed.values()]
    if kind == "width":
        assert new_values[0] == int(value)
    elif kind == "negatives":
        assert new_values[0] == int(value) / 100
    elif kind == "temperature":
        assert changed["task.model.initial_temperature"][1] == 1 / int(value[2:])
    elif kind in ("image", "text"):
        assert new_values[0].endswith(f"_{value}")
    elif value in ("3m", "6m", "12m"):
        split = changed["task.train_data.tfds_split"][1]
        assert split == f"train[:{value[:-1]}000000]"


def test_the_ablations_are_those_of_the_paper():
    """Tables 8 to 10 and figure 3 of the paper vary the model B5 + BERT-base."""
    assert list(ABLATIONS) == sorted(
        [
            *(f"width_{width}" for width in (320, 160, 80)),
            *(f"negatives_{percent}" for percent in (50, 25)),
            *(f"temperature_1_{inverse}" for inverse in (128, 64, 32)),
            *(f"image_{size}" for size in ("b1", "b3", "b7", "l2")),
            *(f"text_{size}" for size in ("mini", "medium", "large")),
            *(f"data_{data}" for data in ("10_percent", "cc3m", "3m", "6m", "12m")),
        ]
    )


def test_two_ablations_combine_to_a_cell_of_the_grid():
    files = [ABLATIONS["image_l2"], ABLATIONS["text_mini"]]
    model = load_config("align_b5_base", config_files=files).task.model
    assert model.image_encoder.variant == "efficientnet_l2"
    assert model.text_encoder.variant == "bert_mini"
    assert model.projection_dim == 640


@pytest.mark.parametrize("name, steps", [("coco", 6000), ("flickr30k", 3000)])
def test_fine_tuning_matches_the_paper(name, steps):
    config = load_config(f"finetune_{name}")
    optimization = config.trainer.optimizer_config
    assert config.task.train_data.global_batch_size == 2048
    assert config.trainer.train_steps == steps
    assert optimization.warmup.type is None
    assert optimization.learning_rate.type == "linear"
    assert optimization.learning_rate.linear.initial_learning_rate == 1e-5
    # All other options are those of pre-training.
    pretraining = load_config("align_l2_large")
    assert optimization.optimizer == pretraining.trainer.optimizer_config.optimizer
    assert config.task.loss == pretraining.task.loss
    model = config.task.model
    assert model.image_encoder.weights == model.text_encoder.weights


def planned_duration(text):
    """Returns amount, unit and cores of the duration in a header, or None."""
    duration = header_of(text)["Duration"]
    match = re.search(r"([\d.]+) (days|hours) on (\d+) TPUv3 cores", duration)
    if match is None:
        return None
    amount, unit, cores = match.groups()
    return float(amount), unit, int(cores)


@pytest.mark.parametrize("name", [*FILES, *ABLATIONS])
def test_the_duration_in_a_header_is_that_of_the_plan(name, capsys):
    from align_keras.cli.main import main

    path = FILES.get(name) or ABLATIONS[name]
    text = path.read_text(encoding="utf-8")
    planned = planned_duration(text)
    if planned is None:
        assert name in FILES and "CPU" in header_of(text)["Hardware"]
        return
    amount, unit, cores = planned
    arguments = [f"--experiment={name if name in FILES else base_of(name)}"]
    arguments += [f"--config_file={path}"] if name in ABLATIONS else []
    main(["plan", *arguments, f"--devices={cores}", "--device-kind=tpu_v3", "--json"])
    days = json.loads(capsys.readouterr().out)["days"]
    # The header has one decimal place.
    assert days * (24 if unit == "hours" else 1) == pytest.approx(amount, abs=0.06)
