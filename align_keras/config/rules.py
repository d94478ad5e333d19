"""Rules between options of a configuration, such as steps that must be multiples."""

import codecs
import operator
import os
import re
from typing import Any, NoReturn

from align_keras.config.experiment_config import (
    DataConfig,
    DistillationConfig,
    ExperimentConfig,
)
from align_keras.config.fields import describe_value
from align_keras.utils.errors import InputError

# Keys of `task.model` that a preset determines.
PRESET_KEYS = (
    "image_encoder.variant",
    "image_encoder.image_size",
    "text_encoder.variant",
    "text_encoder.sequence_length",
    "projection_dim",
)
_CHANGE_ONE = "Change one of them."
_OMIT_ONE = "Leave one of them out."
_MODEL = "task.model"
_IMAGE, _TEXT = f"{_MODEL}.image_encoder", f"{_MODEL}.text_encoder"
_DATA = "task.train_data"
_OPTIMIZER = "trainer.optimizer_config.optimizer"
_SCHEDULE = "trainer.optimizer_config.learning_rate"


class Report:
    """Checks of single rules that raise `InputError` for an option.

    An error message starts with the location of the option, such as a line of a file.

    Args:
        config: configuration.
        locations: dict from dotted key to the location where the option was set.
            Options with default values are missing.
    """

    def __init__(self, config: Any, locations: dict[str, str]) -> None:
        self.config = config
        self.locations = locations

    def get(self, key: str) -> Any:
        """Returns the value of a dotted key."""
        return operator.attrgetter(key)(self.config)

    def refuse(
        self, key: str, rule: str, remedy: str, *related_keys: str, **received: Any
    ) -> NoReturn:
        """Raises `InputError` for an option.

        Args:
            key: str, dotted key of the option.
            rule: str, end of the sentence "The option must be …" without a period.
            remedy: str, advice as a sentence.
            related_keys: dotted keys that also cause the error. The message starts with
                the location of the first key that was set.
            received: `value=` replaces the value of the option in the message.
        """
        keys = (key, *related_keys)
        located_key = next((key for key in keys if key in self.locations), None)
        prefix = f"{self.locations[located_key]}: " if located_key else ""
        value = received["value"] if received else self.get(key)
        raise InputError(
            f"{prefix}'{key}' must be {rule}. Received: {describe_value(value)}. "
            f"{remedy}"
        )

    def multiple(self, key: str, divisor_key: str) -> None:
        """Raises if an option isn't a multiple of another, unless one is null."""
        value, divisor = self.get(key), self.get(divisor_key)
        if value and divisor and value % divisor:
            rule = f"a multiple of {divisor_key} ({divisor})"
            self.refuse(key, rule, _CHANGE_ONE, divisor_key)

    def at_most(self, key: str, bound: str) -> None:
        """Raises if an option is larger than another."""
        if self.get(key) > self.get(bound):
            self.refuse(key, f"<= {bound} ({self.get(bound)})", _CHANGE_ONE, bound)

    def refuse_both(self, key: str, other: str) -> None:
        """Raises if an option is set although another is set or true."""
        if self.get(key) is not None and self.get(other):
            state = "true" if self.get(other) is True else "set"
            self.refuse(key, f"null if {other} is {state}", _OMIT_ONE, other)

    def increasing(self, key: str) -> None:
        """Raises unless a list has distinct values in increasing order."""
        if list(self.get(key)) != sorted(set(self.get(key))):
            rule = "increasing, without repetition"
            self.refuse(key, rule, "Sort the values and remove repeated ones.")


def _check_steps(config: ExperimentConfig, report: Report) -> None:
    for name in ("train_steps", "checkpoint_interval", "validation_interval"):
        report.multiple(f"trainer.{name}", "trainer.steps_per_loop")
    optimization = config.trainer.optimizer_config
    warmup, rate = optimization.warmup.get(), optimization.learning_rate
    steps = config.trainer.train_steps
    if warmup and warmup.warmup_steps >= steps:
        report.refuse(
            "trainer.optimizer_config.warmup.linear.warmup_steps",
            f"< trainer.train_steps ({steps})",
            "Shorten the warm-up, or turn it off with "
            "trainer.optimizer_config.warmup.type=null.",
            "trainer.train_steps",
        )
    if rate.type == "linear":
        linear = f"{_SCHEDULE}.linear"
        report.at_most(f"{linear}.end_learning_rate", f"{linear}.initial_learning_rate")
    if rate.type == "stepwise":
        boundaries = f"{_SCHEDULE}.stepwise.boundaries"
        report.increasing(boundaries)
        count = len(rate.stepwise.boundaries)
        if len(rate.stepwise.values) != count + 1:
            rule = f"one value more than boundaries ({count})"
            values = f"{_SCHEDULE}.stepwise.values"
            report.refuse(values, rule, "Add or remove values.", boundaries)


def _check_patterns(config: ExperimentConfig, report: Report) -> None:
    for name in ("lamb", "adamw", "muon", "sgd"):
        key = f"{_OPTIMIZER}.{name}.exclude_from_weight_decay"
        for pattern in report.get(key):
            try:
                re.compile(pattern)
            except re.error as error:
                rule = f"regular expressions ({error})"
                report.refuse(key, rule, "Correct the pattern.", value=pattern)


def _check_metrics(config: ExperimentConfig, report: Report) -> None:
    ks = config.task.evaluation.ks
    report.increasing("task.evaluation.ks")
    if not ks:
        remedy = "Write, for example, [1, 5, 10]."
        report.refuse("task.evaluation.ks", "a list with at least one value", remedy)
    metric = "trainer.best_checkpoint_eval_metric"
    metrics = [f"{direction}/recall_at_{k}" for direction in ("t2i", "i2t") for k in ks]
    if report.get(metric) not in (None, *metrics):
        rule, remedy = f"one of {', '.join(metrics)}", "Choose one, or leave it out."
        report.refuse(metric, rule, remedy, "task.evaluation.ks")


def _check_matryoshka(config: ExperimentConfig, report: Report) -> None:
    widths = "task.loss.matryoshka.widths"
    weights = "task.loss.matryoshka.weights"
    report.increasing(widths)
    count = len(report.get(widths))
    if report.get(weights) and len(report.get(weights)) != count:
        rule = f"a list with one weight for each of {count} widths"
        report.refuse(weights, rule, "Add or remove weights.", widths)


def _check_distillation(config: ExperimentConfig, report: Report) -> None:
    distillation = "task.distillation"
    teacher = f"{distillation}.teacher"
    weights = [f"{distillation}.{name}_weight" for name in ("embedding", "similarity")]
    if report.get(teacher) is None:
        if report.get(distillation) != DistillationConfig():
            names = [
                f"{distillation}.contrastive_weight",
                f"{distillation}.temperature",
            ]
            rule = "the name of a model if other options of the section are set"
            remedy = "Write, for example, align_small_en."
            report.refuse(teacher, rule, remedy, *weights, *names)
        return
    if not any(map(report.get, weights)):
        rule = f"above 0 if {weights[0]} is 0"
        report.refuse(weights[1], rule, "Set one of the weights.", weights[0])
    if len(report.get(teacher)) > 1 and report.get(weights[0]):
        # The embeddings of different teachers aren't in the same space.
        remedy = f"Set {weights[0]}=0, or remove all teachers but one."
        report.refuse(weights[0], f"0 if {teacher} has several models", remedy, teacher)


def _check_callbacks(config: ExperimentConfig, report: Report) -> None:
    names = config.trainer.callbacks
    if len(set(names)) != len(names):
        rule, remedy = "a list without repetition", "Remove the repeated names."
        report.refuse("trainer.callbacks", rule, remedy, value=", ".join(names))


def _check_batch_parts(config: ExperimentConfig, report: Report) -> None:
    replicas = config.runtime.num_replicas
    batch = f"{_DATA}.global_batch_size"
    rows = report.get(batch) // (replicas or 1)
    fraction = "task.loss.contrastive.negatives_fraction"
    parts = 1 / report.get(fraction)
    if abs(parts - round(parts)) > 1e-6 or rows % round(parts):
        report.refuse(
            fraction,
            f"1 divided by a divisor of the batch size per replica ({rows})",
            "Write, for example, 0.5 or 0.25.",
            batch,
        )
    # Only one option may define the rows with common batch statistics.
    groups, synchronized = f"{_IMAGE}.replicas_per_group", f"{_IMAGE}.synchronized"
    micro, virtual = f"{_DATA}.micro_batch_size", f"{_IMAGE}.virtual_batch_size"
    for other in (synchronized, virtual, micro):
        report.refuse_both(groups, other)
    if replicas and report.get(groups) and replicas % report.get(groups):
        rule = f"a divisor of runtime.num_replicas ({replicas})"
        report.refuse(groups, rule, _CHANGE_ONE, "runtime.num_replicas")
    for key in (micro, virtual):
        size = report.get(key)
        if size is not None and rows % size:
            rule = f"a divisor of the batch size per replica ({rows})"
            report.refuse(key, rule, _CHANGE_ONE, batch)
        if config.task.model.image_encoder.synchronized:
            report.refuse_both(key, synchronized)
    size = report.get(micro)
    if None not in (size, report.get(virtual)) and size % report.get(virtual):
        report.refuse(virtual, f"a divisor of {micro} ({size})", _CHANGE_ONE, micro)


def _check_preset(config: ExperimentConfig, report: Report) -> None:
    model = config.task.model
    if model.preset is None:
        return
    for name in PRESET_KEYS:
        key, value = f"{_MODEL}.{name}", operator.attrgetter(name)(model)
        default = operator.attrgetter(name)(type(model)())
        if value != default or (key in report.locations and value is not None):
            report.refuse(
                key,
                f"omitted, because task.model.preset ({model.preset}) determines it",
                "Leave it out, or set task.model.preset=null.",
                "task.model.preset",
            )


def _check_towers(config: ExperimentConfig, report: Report) -> None:
    model = config.task.model
    image, text = model.image_encoder, model.text_encoder
    report.multiple(f"{_TEXT}.hidden_dim", f"{_TEXT}.num_heads")
    report.refuse_both(f"{_TEXT}.vocabulary", f"{_TEXT}.weights")
    if text.max_sequence_length is not None:
        length = f"{_TEXT}.sequence_length"
        report.at_most(length, f"{_TEXT}.max_sequence_length")
    has_class_names = image.num_classes == 1000 and image.weights is not None
    has_text_weights = text.weights is not None and not text.projection
    if model.project_class_names and not (has_class_names and has_text_weights):
        report.refuse(
            f"{_MODEL}.project_class_names",
            "false without image_encoder.num_classes=1000, the weights of both towers "
            "and text_encoder.projection=false",
            "Set these options, or leave it out.",
        )
    if model.initial_temperature is None and image.weights is None:
        report.refuse(
            f"{_MODEL}.initial_temperature",
            "a number if image_encoder.weights isn't an ALIGN",
            "Write 1.0 as in the paper, or set the weights.",
        )


def _check_training(config: ExperimentConfig, report: Report) -> None:
    model = config.task.model
    for encoder in (_IMAGE, _TEXT):
        tower = report.get(encoder)
        key = f"{encoder}.training"
        if tower.locked and tower.training not in (None, "projection"):
            remedy = f"Leave out {encoder}.locked, which {key} replaces."
            report.refuse(key, "projection if locked is true", remedy)
        for name, mode in (("blocks", "last_blocks"), ("rank", "lora")):
            if getattr(tower, name) is not None and tower.training_mode != mode:
                rule = f"null unless training is {mode}"
                remedy = f"Set {key}={mode}, or leave it out."
                report.refuse(f"{encoder}.{name}", rule, remedy)
    modes = {model.image_encoder.training_mode, model.text_encoder.training_mode}
    if modes == {"frozen"} and not model.learn_temperature:
        report.refuse(
            f"{_IMAGE}.training",
            "projection, last_blocks, lora or full if the text encoder is frozen and "
            "learn_temperature is false",
            "Train at least one of them.",
        )


def _check_data(config: ExperimentConfig, report: Report) -> None:
    for key in (_DATA, "task.validation_data"):
        data = report.get(key)
        try:
            codecs.lookup(data.encoding)
        except LookupError:
            report.refuse(f"{key}.encoding", "a text encoding", "Try utf-8.")
        if data.corpus == "pairs" and data.pairs is None:
            rule, remedy = "a path if corpus is 'pairs'", "Set the table or folder."
            report.refuse(f"{key}.pairs", rule, remedy, f"{key}.corpus")
        if data.pairs is not None and data.corpus not in (None, "pairs"):
            rule = f"pairs if {key}.pairs is set"
            report.refuse(f"{key}.corpus", rule, _OMIT_ONE, f"{key}.pairs")
        if data.caption_sources is not None and data.pair_weighted:
            rule = "false if caption_sources is set"
            report.refuse(
                f"{key}.pair_weighted", rule, _OMIT_ONE, f"{key}.caption_sources"
            )
        if data.split_by != "image" and data.corpus != "pairs":
            rule, remedy = "image unless corpus is 'pairs'", "Set the table or folder."
            report.refuse(f"{key}.split_by", rule, remedy, f"{key}.corpus")
        has_no_scores = data.source is None and data.corpus in (None, "pairs")
        if data.where is not None and has_no_scores:
            rule = "null unless corpus or source is the folder of a built corpus"
            remedy = "Set the corpus or the source, or leave it out."
            report.refuse(f"{key}.where", rule, remedy, f"{key}.corpus")
        if data.corpus_repeats is not None:
            _check_corpus_repeats(data, key, report)
        if data.source is not None:
            _check_source(data, key, report)


def _check_corpus_repeats(data: DataConfig, key: str, report: Report) -> None:
    repeats = f"{key}.corpus_repeats"
    if key != _DATA:
        remedy = "Leave it out. Validation reads each pair once."
        report.refuse(repeats, "null", remedy)
    members = (data.corpus or "").split("+")
    if len(members) == 1 or not set(members).issuperset(data.corpus_repeats or {}):
        rule = "numbers for corpora that corpus joins by +"
        remedy = "Use for example {icons: 2} for corpus icons+stamps."
        report.refuse(repeats, rule, remedy, f"{key}.corpus")


def _check_source(data: DataConfig, key: str, report: Report) -> None:
    source = f"{key}.source"
    if key != _DATA:
        remedy = f"Build the corpus and set {key}.corpus, or set {key}.pairs."
        report.refuse(source, "null, because validation needs a corpus", remedy)
    for other in ("corpus", "pairs"):
        report.refuse_both(f"{key}.{other}", source)
    if data.cache:
        remedy = "Leave one of them out, or build a corpus."
        report.refuse(f"{key}.cache", "false if source is set", remedy, source)
    has_weights = [item.weight is not None for item in data.source or ()]
    if any(has_weights) and not all(has_weights):
        remedy = "Add the missing weights, or remove all weights."
        report.refuse(source, "a list with a weight for each path, or for none", remedy)


def _check_held_out(config: ExperimentConfig, report: Report) -> None:
    train, validation = config.task.train_data, config.task.validation_data
    if not _sources(train) & _sources(validation):
        return
    for section, part, purpose in (
        ("validation_data", "test", "training"),
        ("train_data", "train", "validation"),
    ):
        key = f"task.{section}"
        if report.get(f"{key}.tfds_split") == "all":
            report.refuse(
                f"{key}.tfds_split",
                f"a part, such as {part}, because {purpose} uses the same pairs",
                "Choose other pairs, or write train for task.train_data.tfds_split and "
                "test for task.validation_data.tfds_split.",
                f"{key}.pairs",
                f"{key}.corpus",
            )


def _sources(data: DataConfig) -> set[str]:
    """Returns the paths of a data section. A corpus name is treated as a path."""
    names = [data.pairs] if data.pairs is not None else (data.corpus or "").split("+")
    names += [source.path for source in data.source or ()]
    return {os.path.realpath(name) for name in names if name}


def _check_finetune(config: ExperimentConfig, report: Report) -> None:
    """Checks the section `finetune` and the sections that it uses."""
    report.increasing("finetune.factors")
    if config.finetune.model is None:
        return
    if not {0.0, 1.0} <= set(config.finetune.factors):
        remedy = "Add 0 for the weights of the model, and 1 for the fine-tuned ones."
        report.refuse("finetune.factors", "a list with 0 and 1", remedy)
    if config.runtime.distribution_strategy not in ("default", "one_device"):
        rule = "default or one_device, because fine-tuning uses one device"
        report.refuse("runtime.distribution_strategy", rule, "Change it.")
    train, validation = config.task.train_data, config.task.validation_data
    for name, rule, remedy in (
        ("pairs", "the same for training and validation", "Set both to your pairs."),
        ("split_by", "image_and_caption for fine-tuning", "Set it in both sections."),
    ):
        value = getattr(train, name)
        fits = value == "image_and_caption" if name == "split_by" else value is not None
        if not fits or getattr(validation, name) != value:
            key = f"{_DATA}.{name}"
            report.refuse(key, rule, remedy, f"task.validation_data.{name}")
    if train.tfds_split != "train":
        rule = "train for fine-tuning, which holds out pairs for validation and test"
        report.refuse(f"{_DATA}.tfds_split", rule, "Leave it out.")
    for key in (f"{_DATA}.micro_batch_size", "task.distillation.teacher"):
        report.refuse_both(key, "finetune.model")


def check_num_replicas(config: Any, report: Report) -> None:
    """Raises if the strategy doesn't use `num_replicas` or `tpu`."""
    runtime = config.runtime
    if runtime.num_replicas and runtime.distribution_strategy != "mirrored":
        report.refuse(
            "runtime.distribution_strategy",
            "mirrored if num_replicas is set",
            "Change it, or write runtime.num_replicas=null.",
            "runtime.num_replicas",
        )
    if runtime.tpu is not None and runtime.distribution_strategy != "tpu":
        report.refuse(
            "runtime.distribution_strategy",
            "tpu if runtime.tpu is set",
            "Change it, or write runtime.tpu=null.",
            "runtime.tpu",
        )


def _check_replicas(config: ExperimentConfig, report: Report) -> None:
    check_num_replicas(config, report)
    report.multiple(f"{_DATA}.global_batch_size", "runtime.num_replicas")


EXPERIMENT_RULES = (
    _check_steps,
    _check_patterns,
    _check_metrics,
    _check_matryoshka,
    _check_distillation,
    _check_callbacks,
    _check_batch_parts,
    _check_preset,
    _check_towers,
    _check_training,
    _check_data,
    _check_held_out,
    _check_finetune,
    _check_replicas,
)
