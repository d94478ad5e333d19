import re
import typing

import pytest
import yaml

from align_keras.config import (
    ExperimentConfig,
    as_dict,
    changed_keys,
    experiments,
    load_config,
    validate,
)
from align_keras.config.task import ImageVariant, TextVariant
from align_keras.config.tree import leaves
from align_keras.utils.errors import InputError

FILES = experiments()
NAMES = sorted(FILES)
HEADER = ("Command", "Hardware", "Duration", "Expected metric")


def header_of(text):
    """The opening comment's items, continuation lines joined."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    items = re.split(rf"(?:^|\n)({'|'.join(HEADER)}):", "\n".join(lines))
    return {
        name: " ".join(value.split())
        for name, value in zip(items[1::2], items[2::2], strict=True)
    }


def test_the_files_are_there():
    assert {
        "quickstart_icons",
        "quickstart_stamps",
        "stamps_warm_start",
        "align_b3_mini_cc3m",
        "align_b7_base",
        "align_l2_large",
    } <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_loads_strictly_and_says_what_to_expect(name):
    assert validate(load_config(name)) == load_config(FILES[name])
    header = header_of(FILES[name].read_text(encoding="utf-8"))
    assert list(header) == list(HEADER)
    assert all(header.values())
    assert f"align-keras train --experiment {name} " in header["Command"]
    # A metric is the paper's, with its table, or was measured here by a command.
    assert re.search(
        r"Jia et al\. 2021, table \d+|[Mm]easured by|not measured",
        header["Expected metric"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_holds_only_what_differs_from_the_defaults(name):
    defaults = {key: value for key, value, _ in leaves(ExperimentConfig())}
    for key, value in flat(yaml.safe_load(FILES[name].read_text(encoding="utf-8"))):
        default = defaults[key]
        default = list(default) if isinstance(default, tuple) else default
        # Numbers such as 2e-3 are strings to a YAML 1.1 reader.
        assert value != default and str(value) != str(default), key


@pytest.mark.parametrize("name", NAMES)
def test_a_validation_corpus_belongs_to_a_training_corpus(name):
    task = load_config(name).task
    assert task.train_data.corpus and task.validation_data.corpus


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda tree: tree["task"].update(trian_data={}), "'train_data'?"),
        (lambda tree: tree["trainer"].update(train_stepz=1), "'train_steps'?"),
        (lambda tree: tree.update(runtine={}), "'runtime'?"),
        (lambda tree: tree["trainer"].update(train_steps="many"), "an integer"),
        (lambda tree: tree["trainer"].update(train_steps=0), ">= 1"),
        (lambda tree: tree["task"].update(loss={"label_smoothing": 1.5}), "< 1"),
        (lambda tree: tree["task"].update(loss=None), "must hold keys"),
        (lambda tree: tree["task"]["train_data"].update(cache="no"), "write false"),
    ],
)
def test_a_broken_copy_fails(tmp_path, name, damage, expected):
    tree = yaml.safe_load(FILES[name].read_text(encoding="utf-8"))
    tree.setdefault("trainer", {})
    damage(tree)
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_the_papers_numbers_stay():
    """What the paper states is the default, and no experiment overrides it."""
    for name in ("align_b3_mini_cc3m", "align_b7_base", "align_l2_large"):
        changed = set(changed_keys(ExperimentConfig(), load_config(name)))
        assert changed <= {
            "task.model.image_encoder.variant",
            "task.model.text_encoder.variant",
            "task.model.projection_dim",
            "task.train_data.corpus",
            "task.train_data.pairs",
            "task.validation_data.corpus",
            "task.validation_data.pairs",
            "trainer.train_steps",
            "runtime.distribution_strategy",
        }
    assert (
        as_dict(load_config("align_l2_large"))["trainer"]
        == (as_dict(ExperimentConfig())["trainer"])
    )


def flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# --- Every file's model on small inputs: built from its config and validated. ---


def test_the_variants_are_those_of_the_models():
    from align_keras.models import efficientnet, text_encoder

    for variant, known in (
        (ImageVariant, efficientnet.VARIANTS),
        (TextVariant, text_encoder.VARIANTS),
    ):
        assert list(typing.get_args(variant)) == list(known)


# B7 has 64M weights and L2 468M: minutes, for CI.
HEAVY = {"align_b7_base", "align_l2_large"}
ENCODER_WEIGHTS = {  # without the 1×1 head, measured by the reference code's table
    "align_b3_mini_cc3m": 10_187_560 + 384 * 640 + 640,  # and the projection
    "align_b7_base": 62.2e6,
    "align_l2_large": 468.3e6,
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else [])
        for name in FILES
    ],
)
def test_every_model_is_built_and_validated_on_small_inputs(name):
    import numpy as np

    from align_keras.cli.assemble import build_model, compile_model

    small = (
        "task.model.image_encoder.image_size=32,"
        "task.model.text_encoder.vocabulary_size=100,"
        "task.model.text_encoder.sequence_length=8,"
        # Public weights have a vocabulary of their own size.
        "task.model.image_encoder.weights=null,task.model.text_encoder.weights=null,"
        "task.model.project_class_names=false"
    )
    config = load_config(name, params_override=small)
    model = build_model(config.task.model)
    if name in ENCODER_WEIGHTS:
        weights = model.image_encoder.count_params()
        assert weights == pytest.approx(ENCODER_WEIGHTS[name], rel=0.03)
    compile_model(model, config)
    batch = {
        "images": np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)),
        "token_ids": np.array([[2, 7, 3, 0, 0, 0, 0, 0], [2, 8, 9, 3, 0, 0, 0, 0]]),
        "padding_mask": np.array([[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]),
    }
    outputs = model(batch)
    shape = (2, config.task.model.projection_dim)
    for embedding in ("image_embedding", "text_embedding"):
        assert outputs[embedding].shape == shape
        norms = np.linalg.norm(outputs[embedding], axis=1)
        np.testing.assert_allclose(norms, 1.0, atol=1e-5)
    losses = model.test_step(batch)
    assert np.isfinite(float(losses["loss"]))
