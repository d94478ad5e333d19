"""Rules between options: each looks at a whole configuration and refuses an option."""

import codecs
import operator
import os
import re
from typing import Any, NoReturn

from align_keras.config.experiment_config import DataConfig, ExperimentConfig
from align_keras.config.fields import describe_value
from align_keras.utils.errors import InputError

# Keys below `task.model` that a preset determines.
SETTLED_BY_PRESET = (
    "image_encoder.variant",
    "image_encoder.image_size",
    "text_encoder.variant",
    "text_encoder.sequence_length",
    "projection_dim",
)
_CHANGE_ONE = "change one of them"
_LEAVE_ONE = "leave one of them out"
_MODEL = "task.model"
_IMAGE, _TEXT = f"{_MODEL}.image_encoder", f"{_MODEL}.text_encoder"
_DATA = "task.train_data"
_OPTIMIZER = "trainer.optimizer_config.optimizer"
_SCHEDULE = "trainer.optimizer_config.learning_rate"


class Report:
    """Refuses options in one line that begins with the place where one was given."""

    def __init__(self, config: Any, places: dict[str, str]) -> None:
        self.config = config
        self.places = places

    def get(self, key: str) -> Any:
        return operator.attrgetter(key)(self.config)

    def refuse(
        self, key: str, rule: str, remedy: str, *related_keys: str, **received: Any
    ) -> NoReturn:
        """Refuses an option; `others` share the fault, and may be the given ones."""
        named_key = next((k for k in (key, *related_keys) if k in self.places), None)
        prefix = f"{self.places[named_key]}: " if named_key else ""
        value = received["value"] if received else self.get(key)
        raise InputError(
            f"{prefix}'{key}' must be {rule}, received {describe_value(value)}; "
            f"{remedy}."
        )

    def multiple(self, key: str, of: str) -> None:
        """Refuses an option that isn't a multiple of another, if both are given."""
        value, divisor = self.get(key), self.get(of)
        if value and divisor and value % divisor:
            self.refuse(key, f"a multiple of {of} ({divisor})", _CHANGE_ONE, of)

    def at_most(self, key: str, bound: str) -> None:
        """Refuses an option above another."""
        if self.get(key) > self.get(bound):
            self.refuse(key, f"<= {bound} ({self.get(bound)})", _CHANGE_ONE, bound)

    def apart(self, key: str, other: str) -> None:
        """Refuses an option beside another that is given, or true."""
        if self.get(key) is not None and self.get(other):
            state = "true" if self.get(other) is True else "given"
            self.refuse(key, f"null where {other} is {state}", _LEAVE_ONE, other)

    def increasing(self, key: str) -> None:
        """Refuses a list that isn't in order, or that repeats a value."""
        if list(self.get(key)) != sorted(set(self.get(key))):
            rule = "increasing, without repetition"
            self.refuse(key, rule, "put the values in order, each once")


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
            "shorten the warm-up, or leave it out by "
            "trainer.optimizer_config.warmup.type=null",
            "trainer.train_steps",
        )
    if rate.type == "linear":
        linear = f"{_SCHEDULE}.linear"
        least, most = f"{linear}.end_learning_rate", f"{linear}.initial_learning_rate"
        report.at_most(least, most)
    if rate.type == "stepwise":
        boundaries = f"{_SCHEDULE}.stepwise.boundaries"
        report.increasing(boundaries)
        count = len(rate.stepwise.boundaries)
        if len(rate.stepwise.values) != count + 1:
            rule = f"one value more than boundaries ({count})"
            values = f"{_SCHEDULE}.stepwise.values"
            report.refuse(values, rule, "add or remove values", boundaries)


def _check_patterns(config: ExperimentConfig, report: Report) -> None:
    for name in ("lamb", "adamw", "muon", "sgd"):
        key = f"{_OPTIMIZER}.{name}.exclude_from_weight_decay"
        for pattern in report.get(key):
            try:
                re.compile(pattern)
            except re.error as error:
                remedy = f"correct it ({error})"
                report.refuse(key, "regular expressions", remedy, value=pattern)


def _check_metrics(config: ExperimentConfig, report: Report) -> None:
    ks = config.task.evaluation.ks
    report.increasing("task.evaluation.ks")
    if not ks:
        remedy = "write for example [1, 5, 10]"
        report.refuse("task.evaluation.ks", "not empty", remedy)
    metric = "trainer.best_checkpoint_eval_metric"
    metrics = [f"{direction}/recall_at_{k}" for direction in ("t2i", "i2t") for k in ks]
    if report.get(metric) not in (None, *metrics):
        rule, remedy = f"one of {', '.join(metrics)}", "choose one, or leave it out"
        report.refuse(metric, rule, remedy, "task.evaluation.ks")


def _check_batch_parts(config: ExperimentConfig, report: Report) -> None:
    replicas = config.runtime.num_replicas
    batch = f"{_DATA}.global_batch_size"
    rows = report.get(batch) // (replicas or 1)
    fraction = "task.loss.contrastive.negatives_fraction"
    parts = 1 / report.get(fraction)
    if abs(parts - round(parts)) > 1e-6 or rows % round(parts):
        report.refuse(
            fraction,
            f"one over a divisor of a replica's batch ({rows})",
            "write for example 0.5 or 0.25",
            batch,
        )
    # The groups of rows that are normalized together are given by one option, and
    # divide the batch.
    groups, synchronized = f"{_IMAGE}.replicas_per_group", f"{_IMAGE}.synchronized"
    micro, ghost = f"{_DATA}.micro_batch_size", f"{_IMAGE}.virtual_batch_size"
    for other in (synchronized, ghost, micro):
        report.apart(groups, other)
    if replicas and report.get(groups) and replicas % report.get(groups):
        rule = f"a divisor of runtime.num_replicas ({replicas})"
        report.refuse(groups, rule, _CHANGE_ONE, "runtime.num_replicas")
    for key in (micro, ghost):
        size = report.get(key)
        if size is not None and rows % size:
            rule = f"a divisor of a replica's batch ({rows})"
            report.refuse(key, rule, _CHANGE_ONE, batch)
        if config.task.model.image_encoder.synchronized:
            report.apart(key, synchronized)
    size = report.get(micro)
    if None not in (size, report.get(ghost)) and size % report.get(ghost):
        report.refuse(ghost, f"a divisor of {micro} ({size})", _CHANGE_ONE, micro)


def _check_preset(config: ExperimentConfig, report: Report) -> None:
    model = config.task.model
    if model.preset is None:
        return
    for name in SETTLED_BY_PRESET:
        key, value = f"{_MODEL}.{name}", operator.attrgetter(name)(model)
        default = operator.attrgetter(name)(type(model)())
        if value != default or (key in report.places and value is not None):
            report.refuse(
                key,
                f"left out where task.model.preset ({model.preset}) settles it",
                "leave one of them out: task.model.preset=null",
                "task.model.preset",
            )


def _check_towers(config: ExperimentConfig, report: Report) -> None:
    model = config.task.model
    image, text = model.image_encoder, model.text_encoder
    report.multiple(f"{_TEXT}.hidden_dim", f"{_TEXT}.num_heads")
    if text.max_sequence_length is not None:
        length = f"{_TEXT}.sequence_length"
        report.at_most(length, f"{_TEXT}.max_sequence_length")
    fits = image.num_classes == 1000 and image.weights is not None
    fits = fits and text.weights is not None and not text.projection
    if model.project_class_names and not fits:
        report.refuse(
            f"{_MODEL}.project_class_names",
            "false without image_encoder.num_classes=1000, the weights of both towers "
            "and text_encoder.projection=false",
            "set these, or leave it out",
        )
    if model.initial_temperature is None and image.weights is None:
        report.refuse(
            f"{_MODEL}.initial_temperature",
            "a number where image_encoder.weights names no ALIGN",
            "write 1.0, as the paper, or name the weights",
        )


def _check_data(config: ExperimentConfig, report: Report) -> None:
    for key in (_DATA, "task.validation_data"):
        data = report.get(key)
        try:
            codecs.lookup(data.encoding)
        except LookupError:
            report.refuse(f"{key}.encoding", "a text encoding", "try utf-8")
        if data.corpus == "pairs" and data.pairs is None:
            rule, remedy = "a path where corpus is 'pairs'", "name the table or folder"
            report.refuse(f"{key}.pairs", rule, remedy, f"{key}.corpus")
        if data.pairs is not None and data.corpus not in (None, "pairs"):
            rule = f"pairs where {key}.pairs is given"
            report.refuse(f"{key}.corpus", rule, _LEAVE_ONE, f"{key}.pairs")
        if data.source is not None:
            _check_source(data, key, report)


def _check_source(data: DataConfig, key: str, report: Report) -> None:
    source = f"{key}.source"
    if key != _DATA:
        remedy = "name a built corpus or a table, as corpus or pairs"
        report.refuse(source, "null, for what is measured is built first", remedy)
    for other in ("corpus", "pairs"):
        report.apart(f"{key}.{other}", source)
    if data.cache:
        remedy = "leave one of them out, or build a corpus"
        report.refuse(f"{key}.cache", "false where source is given", remedy, source)
    weighted = [item.weight is not None for item in data.source or ()]
    if any(weighted) and not all(weighted):
        remedy = "give each one, or none"
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
                f"a part, such as {part}, where {purpose} takes the same pairs",
                "name other pairs, or write train for task.train_data.tfds_split and "
                "test for task.validation_data.tfds_split",
                f"{key}.pairs",
                f"{key}.corpus",
            )


def _sources(data: DataConfig) -> set[str]:
    """Returns the paths of a data section. Names of corpora are read as paths."""
    names = [data.pairs] if data.pairs is not None else (data.corpus or "").split("+")
    names += [source.path for source in data.source or ()]
    return {os.path.realpath(name) for name in names if name}


def check_num_replicas(config: Any, report: Report) -> None:
    """Refuses a number of replicas without the strategy that makes them."""
    runtime = config.runtime
    if runtime.num_replicas and runtime.distribution_strategy != "mirrored":
        report.refuse(
            "runtime.distribution_strategy",
            "mirrored where num_replicas is given",
            "change it, or write runtime.num_replicas=null",
            "runtime.num_replicas",
        )


def _check_replicas(config: ExperimentConfig, report: Report) -> None:
    check_num_replicas(config, report)
    report.multiple(f"{_DATA}.global_batch_size", "runtime.num_replicas")


EXPERIMENT_RULES = (
    _check_steps,
    _check_patterns,
    _check_metrics,
    _check_batch_parts,
    _check_preset,
    _check_towers,
    _check_data,
    _check_held_out,
    _check_replicas,
)
