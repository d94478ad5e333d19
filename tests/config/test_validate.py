"""Ranges of options and rules between options of an experiment."""

import pydantic
import pytest

from align_keras.config import ExperimentConfig, load_config, validate
from align_keras.utils.errors import InputError

MODEL = "task.model"
IMAGE, TEXT = f"{MODEL}.image_encoder", f"{MODEL}.text_encoder"
DATA, VALIDATION = "task.train_data", "task.validation_data"
OPTIMIZER = "trainer.optimizer_config.optimizer"
RATE = "trainer.optimizer_config.learning_rate"
WARMUP = "trainer.optimizer_config.warmup.linear"


@pytest.mark.parametrize(
    "override, rule",
    [
        ("trainer.max_to_keep=0", "greater than 0"),
        ("trainer.seed=-1", "greater than or equal to 0"),
        ("trainer.seed=4294967296", "less than or equal to 4294967295"),
        (f"{IMAGE}.drop_connect_rate=1", "less than 1"),
        (f"{RATE}.stepwise.values=[0.1, 0]", "greater than 0"),
        ("finetune.factors=[1.1]", "less than or equal to 1"),
        (f"{DATA}.caption_sources={{alt: 0}}", "greater than 0"),
        (f"{DATA}.source=[{{path: a, weight: 0}}]", "greater than 0"),
    ],
)
def test_values_out_of_range_are_refused(override, rule):
    with pytest.raises(InputError) as caught:
        load_config(params_override=override)
    assert f"must be {rule}. Received: " in str(caught.value)


@pytest.mark.parametrize(
    "override, expected",
    [
        ("trainer.train_steps=1500", ["trainer.train_steps", "steps_per_loop (1000)"]),
        ("trainer.checkpoint_interval=7", ["checkpoint_interval", "a multiple of"]),
        ("trainer.validation_interval=7", ["validation_interval", "a multiple of"]),
        (
            "trainer.train_steps=10000",
            ["warmup_steps", "< trainer.train_steps"],
        ),
        (
            f"{RATE}.type=stepwise,{RATE}.stepwise.boundaries=[2, 1]",
            ["boundaries", "must be increasing"],
        ),
        (
            "task.loss.contrastive.negatives_fraction=0.3",
            ["1 divided by a divisor of the batch size per replica (16384)"],
        ),
        (
            f"{DATA}.micro_batch_size=100",
            ["a divisor of the batch size per replica (16384)"],
        ),
        (
            "trainer.best_checkpoint_eval_metric=t2i/recall_at_2",
            ["one of t2i/recall_at_1, t2i/recall_at_5"],
        ),
        (
            f"{TEXT}.rank=4",
            ["rank' must be null unless training is lora", f"Set {TEXT}.training=lora"],
        ),
        (
            f"{IMAGE}.blocks=1,{IMAGE}.training=full",
            ["blocks' must be null unless training is last_blocks"],
        ),
        (f"{DATA}.corpus=pairs", [f"'{DATA}.pairs' must be a path"]),
        (f"{DATA}.corpus=icons,{DATA}.pairs=a.csv", [f"'{DATA}.corpus' must be pairs"]),
        (
            f"{DATA}.pairs=a.csv,{VALIDATION}.pairs=a.csv,{VALIDATION}.tfds_split=all",
            [
                f"'{VALIDATION}.tfds_split' must be a part, such as test",
                "Choose other pairs",
            ],
        ),
        (
            f"{DATA}.corpus=icons+stamps,{DATA}.tfds_split=all,"
            f"{VALIDATION}.corpus=stamps",
            [
                f"'{DATA}.tfds_split' must be a part, such as train",
                "Choose other pairs",
            ],
        ),
        (
            f"{DATA}.corpus=c/1.0.0,{DATA}.tfds_split=all,{VALIDATION}.corpus=c/1.0.0/",
            [f"'{DATA}.tfds_split' must be a part, such as train"],
        ),
        (f"{OPTIMIZER}.lamb.exclude_from_weight_decay=['(']", ["regular expression"]),
        (f"{OPTIMIZER}.adamw.exclude_from_weight_decay=['*']", ["regular expression"]),
        ("task.evaluation.ks=[5, 1]", ["increasing"]),
        ("task.evaluation.ks=[1, 1]", ["without repetition"]),
        ("task.evaluation.ks=[]", ["must not be empty"]),
        ("runtime.num_replicas=2", ["distribution_strategy' must be mirrored"]),
        ("runtime.tpu=local", ["distribution_strategy' must be tpu if runtime.tpu"]),
        (
            f"{TEXT}.vocabulary=tokens.txt,{TEXT}.weights=minilm-l6",
            [f"'{TEXT}.vocabulary' must be null if {TEXT}.weights is set"],
        ),
        (
            "runtime.num_replicas=3,runtime.distribution_strategy=mirrored",
            ["global_batch_size' must be a multiple of runtime.num_replicas (3)"],
        ),
    ],
)
def test_options_that_violate_a_rule_are_refused(override, expected):
    with pytest.raises(InputError) as caught:
        load_config(params_override=override)
    message = str(caught.value)
    # The message starts with the location of an option that was set.
    assert message.startswith("params_override '")
    assert "\n" not in message
    for part in expected:
        assert part in message, message


@pytest.mark.parametrize(
    "override",
    [
        "trainer.train_steps=10000,trainer.optimizer_config.warmup.type=null",
        "trainer.train_steps=11000",
        f"{DATA}.corpus=pairs,{DATA}.pairs=a.csv",
        f"{DATA}.pairs=a.csv",
        f"{DATA}.pairs=a.csv,{VALIDATION}.pairs=a.csv",
        f"{DATA}.pairs=a.csv,{VALIDATION}.pairs=b.csv,{VALIDATION}.tfds_split=all",
        f"{DATA}.encoding=latin-1",
        "runtime.num_replicas=4,runtime.distribution_strategy=mirrored",
        "task.loss.contrastive.label_smoothing=0",
        "task.train_data.max_bad_fraction=1",
        f"{OPTIMIZER}.lamb.exclude_from_weight_decay=[]",
    ],
)
def test_valid_overrides_are_accepted(override):
    load_config(params_override=override)


@pytest.mark.parametrize(
    "arguments",
    [{"trainer": None}, {"trainer": {"seed": -1}}, {"trainer": {"sed": 1}}],
)
def test_configs_from_python_are_checked(arguments):
    with pytest.raises(pydantic.ValidationError, match="trainer"):
        ExperimentConfig(**arguments)


def test_validate_returns_the_config():
    config = load_config()
    assert validate(config) is config


def test_get_returns_the_member_that_type_selects():
    optimization = load_config(
        params_override=f"{OPTIMIZER}.type=adamw,{RATE}.type=cosine,"
        "trainer.optimizer_config.warmup.type=null"
    ).trainer.optimizer_config
    assert optimization.optimizer.get() is optimization.optimizer.adamw
    assert optimization.learning_rate.get() is optimization.learning_rate.cosine
    assert optimization.warmup.get() is None


def test_every_type_name_has_its_member():
    optimization = load_config().trainer.optimizer_config
    for one_of in (optimization.optimizer, optimization.learning_rate):
        fields = dict(type(one_of).model_fields)
        assert set(fields.pop("type").annotation.__args__) == set(fields)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{IMAGE}.image_size", 128),
        (f"{IMAGE}.image_size", 289),  # A default value is also refused if it is set.
        (f"{IMAGE}.variant", "efficientnet_b0"),
        (f"{TEXT}.variant", "bert_mini"),
        (f"{TEXT}.sequence_length", 32),
        (f"{MODEL}.projection_dim", 320),
    ],
)
def test_options_that_a_preset_determines_are_refused(key, value):
    override = {f"{MODEL}.preset": "align_nano", key: value}
    message = (
        rf"'{key}' must be omitted, because {MODEL}.preset \(align_nano\) determines it"
    )
    with pytest.raises(InputError, match=message):
        load_config(params_override=override)
    config = load_config(params_override={**override, f"{MODEL}.preset": None})
    if (key, value) != (f"{IMAGE}.image_size", 289):
        model = config.task.model.model_copy(update={"preset": "align_nano"})
        task = config.task.model_copy(update={"model": model})
        with pytest.raises(InputError, match=message):
            validate(config.model_copy(update={"task": task}))


@pytest.mark.parametrize(
    ("locked", "training", "mode"),
    [
        ("false", "null", "full"),
        ("true", "null", "projection"),
        ("true", "projection", "projection"),
        ("false", "lora", "lora"),
    ],
)
def test_locked_is_an_older_name_of_a_mode(locked, training, mode):
    override = f"{TEXT}.locked={locked},{TEXT}.training={training}"
    config = load_config(params_override=override)
    assert config.task.model.text_encoder.training_mode == mode
