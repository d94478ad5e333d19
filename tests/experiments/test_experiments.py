"""Tests of the experiments: values of the paper, headers, models."""

import collections
import typing

import pytest
import yaml

from align_keras.config import (
    ExperimentConfig,
    changed_keys,
    experiments,
    load_config,
    validate,
)
from align_keras.config.fields import leaves
from align_keras.config.model_config import (
    ImageVariantName,
    TextVariantName,
    TrainingMode,
)
from tests.helpers.headers import ABLATIONS, flatten, read_checked_header
from tests.helpers.small_run import COLORS, SHAPES, draw

FILES = experiments()
PRETRAINING = (
    "align_b3_mini_cc3m",
    "align_b5_base",
    "align_b7_base",
    "align_l2_large",
    "align_l2_large_mling",
)
NAMES = sorted(FILES)
# Experiment that divides one table, which an override must set for both sections.
FINETUNING = "own_pairs"


def test_all_experiments_are_listed():
    assert {
        "quickstart_icons",
        "quickstart_stamps",
        "stamps_warm_start",
        "align_small_en",
        "align_b3_mini_cc3m",
        "align_b5_base",
        "align_b7_base",
        "align_l2_large",
        "align_l2_large_mling",
        "finetune_coco",
        "finetune_flickr30k",
        FINETUNING,
    } <= set(NAMES)
    files = set(FILES["align_b5_base"].parent.rglob("*.yaml"))
    # tests/config/test_recipes.py and test_corpora.py test the other files.
    recipes = experiments("evaluation").values()
    corpora = experiments("corpora").values()
    assert files == {*FILES.values(), *ABLATIONS.values(), *recipes, *corpora}


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_valid_and_its_header_has_the_command(name):
    assert validate(load_config(name)) == load_config(FILES[name])
    header = read_checked_header(FILES[name])
    assert f"align-keras train --experiment {name} " in header["Command"]


@pytest.mark.parametrize("name", NAMES)
def test_no_option_repeats_a_default(name):
    defaults = {key: value for key, value in leaves(ExperimentConfig())}
    for key, value in flatten(yaml.safe_load(FILES[name].read_text(encoding="utf-8"))):
        if key not in defaults:
            # An entry of an option that is a mapping, such as the repeats of a corpus.
            assert key.rpartition(".")[0] in defaults, key
            continue
        default = defaults[key]
        default = list(default) if isinstance(default, tuple) else default
        # A YAML 1.1 reader returns numbers such as 2e-3 as strings.
        assert value != default and str(value) != str(default), key


@pytest.mark.parametrize("name", NAMES)
def test_a_validation_corpus_belongs_to_a_training_corpus(name):
    task = load_config(name).task
    assert task.train_data.corpus and task.validation_data.corpus


@pytest.mark.parametrize("name", [name for name in NAMES if name != FINETUNING])
def test_tables_are_used_without_splits(name):
    task = load_config(name).task
    sections = (task.train_data, task.validation_data)
    if any(data.corpus == "pairs" for data in sections):
        assert [data.tfds_split for data in sections] == ["all", "all"]


@pytest.mark.parametrize("name", [*NAMES, *ABLATIONS])
def test_no_experiment_reads_karpathys_test_split(name):
    """Published results come from `align-keras evaluate`, not from a training run."""
    path = FILES.get(name) or ABLATIONS[name]
    assert "karpathy_test" not in path.read_text(encoding="utf-8")
    if name.startswith("finetune"):
        task, folder = load_config(name).task, name.removeprefix("finetune_")
        assert task.train_data.pairs == f"{folder}/karpathy_train.tsv"
        assert task.validation_data.pairs == f"{folder}/karpathy_val.tsv"


@pytest.mark.parametrize("name", [name for name in NAMES if name != FINETUNING])
def test_one_override_sets_a_corpus_or_pairs(name):
    for section in ("train_data", "validation_data"):
        for key, value, expected in (
            ("corpus", "DIR/web_pairs/1.0.0", ("DIR/web_pairs/1.0.0", None)),
            ("corpus", "stamps/de", ("stamps/de", None)),
            ("pairs", "my.tsv", ("pairs", "my.tsv")),
        ):
            override = f"task.{section}.{key}={value}"
            data = getattr(load_config(name, params_override=override).task, section)
            assert (data.corpus, data.pairs) == expected


@pytest.mark.ci
def test_fine_tuning_uses_all_rows_of_both_tables(tmp_path):
    from align_keras.data import batch_ids, read_retrieval_set
    from align_keras.runs.run_corpora import prepare_corpus
    from align_keras.runs.training_batches import order_arguments

    for table, colors in (("train", COLORS[:5]), ("test", COLORS[5:])):
        lines = ["image\tcaption"]
        for color in colors:
            for shape in SHAPES:
                draw(color, shape).save(tmp_path / f"{color}_{shape}.png")
                for kind in ("a", "one", "the")[: 3 if color == COLORS[0] else 2]:
                    lines.append(f"{color}_{shape}.png\t{kind} {color} {shape}")
        (tmp_path / f"{table}.tsv").write_text("\n".join(lines))
    override = ",".join(
        f"task.{section}_data.pairs={tmp_path}/{table}.tsv,"
        f"task.{section}_data.tfds_data_dir={tmp_path / 'data'}"
        for section, table in (("train", "train"), ("validation", "test"))
    )
    # The training table has 25 images and 55 pairs.
    batch = "task.train_data.global_batch_size=11"
    config = load_config("finetune_coco", params_override=[override, batch])
    train, validation = config.task.train_data, config.task.validation_data
    builder = prepare_corpus(train, 289)
    counts = collections.Counter(
        identifier
        for step in range(5)
        for identifier in batch_ids(
            builder, train.tfds_split, step=step, **order_arguments(config)
        )
    )
    assert len(counts) == 25
    for name, count in counts.items():
        assert count == (3 if name.startswith(COLORS[0]) else 2)
    test_builder = prepare_corpus(validation, 289)
    test_pairs = read_retrieval_set(test_builder, validation.tfds_split)
    assert len(test_pairs) == 15
    assert {len(captions) for captions in test_pairs.captions} == {2}


def test_values_of_the_paper_are_not_overridden():
    """The defaults have the values of the paper."""
    for name in PRETRAINING:
        changed = set(changed_keys(ExperimentConfig(), load_config(name)))
        if name == "align_l2_large_mling":
            # The paper names no normalization. `bert_cased` does not remove accents.
            normalization = "task.model.text_encoder.normalization"
            text_encoder = load_config(name).task.model.text_encoder
            assert text_encoder.normalization == "bert_cased"
            changed.remove(normalization)
        if name.startswith("align_l2_large"):
            # The paper does not state how L2 fits the memory of its devices.
            changed -= {
                "task.model.image_encoder.rematerialize",
                "task.model.text_encoder.rematerialize",
                "runtime.mixed_precision_dtype",
            }
        assert changed <= {
            "task.model.image_encoder.variant",
            "task.model.text_encoder.variant",
            "task.model.text_encoder.vocabulary_size",
            "task.model.projection_dim",
            "task.train_data.corpus",
            "task.train_data.pairs",
            "task.train_data.tfds_split",
            "task.train_data.pair_weighted",
            "task.validation_data.corpus",
            "task.validation_data.pairs",
            "task.validation_data.tfds_split",
            "trainer.train_steps",
            "runtime.distribution_strategy",
            # The default crop is faster than that of the paper.
            "task.train_data.resize_before_crop",
        }
    assert (
        load_config("align_l2_large").model_dump(mode="json")["trainer"]
        == (ExperimentConfig().model_dump(mode="json")["trainer"])
    )


def test_the_numbers_of_steps_match_the_paper():
    """The numbers are in sections 5, 6.1 and 6.2 (CC-3M)."""
    steps = {name: load_config(name).trainer.train_steps for name in PRETRAINING}
    assert steps == {
        "align_b3_mini_cc3m": 100_000,
        "align_b5_base": 1_000_000,
        "align_b7_base": 1_000_000,
        "align_l2_large": 1_200_000,
        "align_l2_large_mling": 1_200_000,
    }


@pytest.mark.parametrize("name", NAMES)
def test_experiments_of_the_paper_are_pair_weighted(name):
    """Epochs of the paper have all pairs. Small experiments have one pair per image."""
    is_of_paper = name in PRETRAINING or name.startswith("finetune")
    assert load_config(name).task.train_data.pair_weighted == is_of_paper


def test_the_multilingual_model_differs_only_in_its_vocabulary():
    """Section 8 of the paper has the size of the vocabulary."""
    english = load_config("align_l2_large")
    multilingual = load_config("align_l2_large_mling")
    assert changed_keys(english, multilingual) == {
        "task.model.text_encoder.vocabulary_size": (100_000, 250_000),
        "task.model.text_encoder.normalization": ("bert_uncased", "bert_cased"),
    }


# === Models of the experiments, on small inputs ===


def test_names_of_the_configuration_match_those_of_the_models():
    from align_keras.presets import variants

    image_variants = list(variants.IMAGE_VARIANTS)
    text_variants = list(variants.TEXT_VARIANTS)
    assert list(typing.get_args(ImageVariantName)) == image_variants
    assert list(typing.get_args(TextVariantName)) == text_variants
    assert typing.get_args(TrainingMode) == variants.TRAINING_MODES


# Tier of an experiment whose model is built. B5 takes 18 CPU seconds. The other
# experiments are in the release tier.
TIERS = {"quickstart_icons": pytest.mark.ci}


# Numbers of weights of the image encoders in the reference code, without the 1×1 head.
# The first one includes the projection.
ENCODER_WEIGHTS = {
    "align_b3_mini_cc3m": 10_187_560 + 384 * 640 + 640,
    "align_b7_base": 62.2e6,
    "align_l2_large": 468.3e6,
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=TIERS.get(name, pytest.mark.release)) for name in FILES],
)
def test_the_model_of_an_experiment_computes_embeddings_and_a_loss(name):
    import numpy as np

    from align_keras.runs.model_from_config import build_model, compile_model

    small = (
        "task.model.image_encoder.image_size=32,"
        "task.model.text_encoder.vocabulary_size=100,"
        "task.model.text_encoder.sequence_length=8,"
        # Public weights would set the vocabulary and the temperature.
        "task.model.image_encoder.weights=null,task.model.text_encoder.weights=null,"
        "task.model.initial_temperature=1.0,task.model.project_class_names=false"
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
    if "image_ids" in model.loss.required_inputs:
        batch["image_ids"] = np.arange(2)
    width = config.task.model.projection_dim
    if config.task.distillation.teacher is not None:
        teacher = np.eye(2, width, dtype="float32")
        batch |= {
            "teacher_image_embeddings": teacher,
            "teacher_text_embeddings": teacher,
        }
    shape = (2, width)
    for embedding in ("image_embedding", "text_embedding"):
        assert outputs[embedding].shape == shape
        norms = np.linalg.norm(outputs[embedding], axis=1)
        np.testing.assert_allclose(norms, 1.0, atol=1e-5)
    losses = model.test_step(batch)
    assert np.isfinite(float(losses["loss"]))
