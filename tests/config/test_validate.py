"""Ranges of options and rules between options of an experiment."""

import pydantic
import pytest

from align_keras.config import ExperimentConfig, load_config, validate
from align_keras.utils.errors import InputError

MODEL = "task.model"
FRACTION = "task.loss.contrastive.negatives_fraction"
IMAGE, TEXT = f"{MODEL}.image_encoder", f"{MODEL}.text_encoder"
DATA, VALIDATION = "task.train_data", "task.validation_data"
OPTIMIZER = "trainer.optimizer_config.optimizer"
RATE = "trainer.optimizer_config.learning_rate"
WARMUP = "trainer.optimizer_config.warmup.linear"


@pytest.mark.parametrize(
    "override, key",
    [
        # Ranges.
        ("trainer.max_to_keep=0", "trainer.max_to_keep"),
        ("trainer.seed=4294967296", "trainer.seed"),
        (f"{DATA}.caption_sources={{alt: 0}}", f"{DATA}.caption_sources.alt"),
        (f"{DATA}.source=[{{path: a, weight: 0}}]", f"{DATA}.source.0.weight"),
        ("task.evaluation.ks=[5, 1]", "task.evaluation.ks"),
        ("task.evaluation.ks=[]", "task.evaluation.ks"),
        (
            f"{OPTIMIZER}.lamb.exclude_from_weight_decay=['(']",
            f"{OPTIMIZER}.lamb.exclude_from_weight_decay.0",
        ),
        # Rules between options.
        ("trainer.train_steps=1500", "trainer.train_steps"),
        ("trainer.checkpoint_interval=7", "trainer.checkpoint_interval"),
        ("trainer.train_steps=10000", f"{WARMUP}.warmup_steps"),
        ("trainer.best_checkpoint_eval_metric=t2i/recall_at_2", "t2i/recall_at_2"),
        (f"{FRACTION}=0.3", FRACTION),
        (f"{DATA}.micro_batch_size=100", f"{DATA}.micro_batch_size"),
        ("runtime.num_replicas=2", "runtime.distribution_strategy"),
        ("runtime.tpu=local", "runtime.distribution_strategy"),
        (
            "runtime.num_replicas=3,runtime.distribution_strategy=mirrored",
            f"{DATA}.global_batch_size",
        ),
        (f"{TEXT}.rank=4", f"{TEXT}.rank"),
        (f"{TEXT}.hidden_dim=10,{TEXT}.num_heads=4", f"{TEXT}.hidden_dim"),
        (
            f"{DATA}.caption_sources.alt=1,{DATA}.pair_weighted=true",
            f"{DATA}.pair_weighted",
        ),
        (f"{DATA}.source=[{{path: a, weight: 1}}, b]", f"{DATA}.source"),
        (f"{IMAGE}.blocks=1,{IMAGE}.training=full", f"{IMAGE}.blocks"),
        (f"{TEXT}.vocabulary=a.txt,{TEXT}.weights=minilm-l6", f"{TEXT}.vocabulary"),
        (f"{IMAGE}.training=lora,{IMAGE}.locked=true", f"{IMAGE}.training"),
        (
            f"{IMAGE}.training=frozen,{TEXT}.training=frozen,"
            f"{MODEL}.learn_temperature=false",
            f"{IMAGE}.training",
        ),
        (f"{MODEL}.project_class_names=true", f"{MODEL}.project_class_names"),
        ("task.distillation.embedding_weight=0.5", "task.distillation.teacher"),
        (
            "task.distillation.teacher=align_small_en,"
            "task.distillation.embedding_weight=0,"
            "task.distillation.similarity_weight=0",
            "task.distillation.similarity_weight",
        ),
        (
            "finetune.model=m,runtime.distribution_strategy=tpu",
            "runtime.distribution_strategy",
        ),
        (f"finetune.model=m,{DATA}.micro_batch_size=32", f"{DATA}.micro_batch_size"),
        (f"{DATA}.corpus=pairs", f"{DATA}.pairs"),
        (f"{DATA}.corpus=icons,{DATA}.pairs=a.csv", f"{DATA}.corpus"),
        # Training and validation would share pairs.
        (
            f"{DATA}.pairs=a.csv,{VALIDATION}.pairs=a.csv,{VALIDATION}.tfds_split=all",
            f"{VALIDATION}.tfds_split",
        ),
        (
            f"{DATA}.corpus=icons+stamps,{DATA}.tfds_split=all,"
            f"{VALIDATION}.corpus=stamps",
            f"{DATA}.tfds_split",
        ),
        (
            f"{DATA}.corpus=c/1.0.0,{DATA}.tfds_split=all,{VALIDATION}.corpus=c/1.0.0/",
            f"{DATA}.tfds_split",
        ),
    ],
)
def test_a_wrong_value_is_refused(override, key):
    with pytest.raises(InputError) as caught:
        load_config(params_override=override)
    message = str(caught.value)
    # The message starts with the location of an option that was set.
    assert message.startswith("params_override '")
    assert "\n" not in message and f"'{key}'" in message


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
    with pytest.raises(InputError, match=key):
        load_config(params_override=override)
    config = load_config(params_override={**override, f"{MODEL}.preset": None})
    if (key, value) != (f"{IMAGE}.image_size", 289):
        model = config.task.model.model_copy(update={"preset": "align_nano"})
        task = config.task.model_copy(update={"model": model})
        with pytest.raises(InputError, match=key):
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
