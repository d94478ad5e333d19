"""Rules between options: each looks at a whole configuration and refuses an option."""

import codecs
import operator
import os
import re
from typing import Any, NoReturn

from align_keras.config.fields import describe
from align_keras.utils.errors import InputError

# What a preset settles, by keys below `task.model`.
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
    """Refuses options in one line that begins with the place where one was given.

    Args:
        config: config dataclass.
        places: dict from dotted key to the place where it was given.
    """

    def __init__(self, config: Any, places: dict[str, str]):
        self.config = config
        self.places = places

    def get(self, key: str) -> Any:
        """Returns the value of a dotted key."""
        return operator.attrgetter(key)(self.config)

    def refuse(
        self, key: str, rule: str, remedy: str, *others: str, **received: Any
    ) -> NoReturn:
        """Refuses an option.

        Args:
            key: str, the option's dotted key.
            rule: str, what it must be.
            remedy: str.
            *others: str, options that share the fault and may be the given ones.
            **received: `value`, where it isn't all of the option's value.

        Raises:
            InputError: always.
        """
        given = next((k for k in (key, *others) if k in self.places), None)
        place = f"{self.places[given]}: " if given else ""
        value = received["value"] if received else self.get(key)
        raise InputError(
            f"{place}'{key}' must be {rule}, received {describe(value)}; {remedy}."
        )

    def multiple(self, key: str, of: str, name: str | None = None) -> None:
        """Refuses an option that isn't a multiple of another, if both are given."""
        value, divisor = self.get(key), self.get(of)
        if value and divisor and value % divisor:
            self.refuse(key, f"a multiple of {name or of} ({divisor})", _CHANGE_ONE, of)


def _check_steps(config, report):
    for name in ("train_steps", "checkpoint_interval", "validation_interval"):
        report.multiple(f"trainer.{name}", "trainer.steps_per_loop")


def _check_learning_rate(config, report):
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
    if rate.type == "stepwise":
        _check_boundaries(rate.stepwise, report)
    initial = rate.linear.initial_learning_rate
    if rate.type == "linear" and rate.linear.end_learning_rate > initial:
        report.refuse(
            f"{_SCHEDULE}.linear.end_learning_rate",
            f"<= initial_learning_rate ({initial})",
            "exchange them",
            f"{_SCHEDULE}.linear.initial_learning_rate",
        )


def _check_boundaries(schedule, report):
    boundaries = schedule.boundaries
    key = f"{_SCHEDULE}.stepwise.boundaries"
    if list(boundaries) != sorted(set(boundaries)):
        report.refuse(key, "increasing", "put them in order")
    if len(schedule.values) != len(boundaries) + 1:
        report.refuse(
            f"{_SCHEDULE}.stepwise.values",
            f"one value more than boundaries ({len(boundaries)})",
            "add or remove values",
            key,
        )


def _check_patterns(config, report):
    for name in ("lamb", "adamw", "sgd"):
        key = f"{_OPTIMIZER}.{name}.exclude_from_weight_decay"
        for pattern in report.get(key):
            try:
                re.compile(pattern)
            except re.error as error:
                remedy = f"correct it ({error})"
                report.refuse(key, "regular expressions", remedy, value=pattern)


def _check_best_metric(config, report):
    metric = config.trainer.best_checkpoint_eval_metric
    known = [
        f"{direction}/recall_at_{k}"
        for direction in ("t2i", "i2t")
        for k in config.task.evaluation.ks
    ]
    if metric is not None and metric not in known:
        report.refuse(
            "trainer.best_checkpoint_eval_metric",
            f"one of {', '.join(known)}",
            "choose one, or leave it out",
            "task.evaluation.ks",
        )


def _check_batch_parts(config, report):
    image, batch = config.task.model.image_encoder, f"{_DATA}.global_batch_size"
    rows = report.get(batch) // (config.runtime.num_replicas or 1)
    parts = 1 / config.task.loss.negatives_fraction
    if abs(parts - round(parts)) > 1e-6 or rows % round(parts):
        report.refuse(
            "task.loss.negatives_fraction",
            f"one over a divisor of a replica's batch ({rows})",
            "write for example 0.5 or 0.25",
            batch,
        )
    _check_groups(config, report)
    micro_key, ghost_key = f"{_DATA}.micro_batch_size", f"{_IMAGE}.virtual_batch_size"
    synchronized = f"{_IMAGE}.synchronized"
    for key in (micro_key, ghost_key):
        size = report.get(key)
        if size is not None and rows % size:
            rule = f"a divisor of a replica's batch ({rows})"
            report.refuse(key, rule, _CHANGE_ONE, batch)
        if size is not None and image.synchronized:
            rule = f"null where {synchronized} is true"
            report.refuse(key, rule, _LEAVE_ONE, synchronized)
    micro, ghost = report.get(micro_key), report.get(ghost_key)
    if ghost is not None and micro is not None and micro % ghost:
        rule = f"a divisor of {micro_key} ({micro})"
        report.refuse(ghost_key, rule, _CHANGE_ONE, micro_key)


def _check_groups(config, report):
    """Whose rows are normalized together is said once, and in whole groups."""
    groups = report.get(f"{_IMAGE}.replicas_per_group")
    replicas = config.runtime.num_replicas
    for key, state in (
        (f"{_IMAGE}.synchronized", "true"),
        (f"{_IMAGE}.virtual_batch_size", "given"),
        (f"{_DATA}.micro_batch_size", "given"),
    ):
        if groups is not None and report.get(key):
            rule = f"null where {key} is {state}"
            report.refuse(f"{_IMAGE}.replicas_per_group", rule, _LEAVE_ONE, key)
    if groups and replicas and replicas % groups:
        report.refuse(
            f"{_IMAGE}.replicas_per_group",
            f"a divisor of runtime.num_replicas ({replicas})",
            _CHANGE_ONE,
            "runtime.num_replicas",
        )


def _check_preset(config, report):
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


def _check_text_encoder(config, report):
    report.multiple(f"{_TEXT}.hidden_dim", f"{_TEXT}.num_heads", "num_heads")
    encoder = config.task.model.text_encoder
    if encoder.max_sequence_length is None:
        return
    if encoder.max_sequence_length < encoder.sequence_length:
        report.refuse(
            f"{_TEXT}.max_sequence_length",
            f">= sequence_length ({encoder.sequence_length})",
            _CHANGE_ONE,
            f"{_TEXT}.sequence_length",
        )


def _check_class_names(config, report):
    model = config.task.model
    image, text = model.image_encoder, model.text_encoder
    fits = image.num_classes == 1000 and image.weights is not None
    fits = fits and text.weights is not None and not text.projection
    if model.project_class_names and not fits:
        report.refuse(
            f"{_MODEL}.project_class_names",
            "false without image_encoder.num_classes=1000, the weights of both towers "
            "and text_encoder.projection=false",
            "set these, or leave it out",
        )


def _check_temperature(config, report):
    model = config.task.model
    if model.initial_temperature is None and model.image_encoder.weights is None:
        report.refuse(
            f"{_MODEL}.initial_temperature",
            "a number where image_encoder.weights names no ALIGN",
            "write 1.0, as the paper, or name the weights",
        )


def _check_data(config, report):
    for key in (_DATA, "task.validation_data"):
        data = report.get(key)
        try:
            codecs.lookup(data.encoding)
        except LookupError:
            report.refuse(f"{key}.encoding", "a text encoding", "try utf-8")
        if data.corpus == "pairs" and data.pairs is None:
            rule = "a path where corpus is 'pairs'"
            remedy = "name the table or folder"
            report.refuse(f"{key}.pairs", rule, remedy, f"{key}.corpus")
        if data.pairs is not None and data.corpus not in (None, "pairs"):
            rule = f"pairs where {key}.pairs is given"
            report.refuse(f"{key}.corpus", rule, _LEAVE_ONE, f"{key}.pairs")


def _check_held_out(config, report):
    train, validation = config.task.train_data, config.task.validation_data
    if not _sources(train) & _sources(validation):
        return
    for section, part, others in (
        ("validation_data", "test", "training"),
        ("train_data", "train", "validation"),
    ):
        key = f"task.{section}"
        if report.get(f"{key}.tfds_split") == "all":
            report.refuse(
                f"{key}.tfds_split",
                f"a part, such as {part}, where {others} takes the same pairs",
                "name other pairs, or write train for task.train_data.tfds_split and "
                "test for task.validation_data.tfds_split",
                f"{key}.pairs",
                f"{key}.corpus",
            )


def _sources(data):
    """What a data section reads, a set of paths and of names as if they were."""
    names = [data.pairs] if data.pairs is not None else (data.corpus or "").split("+")
    return {os.path.abspath(name) for name in names if name}


def _check_ks(config, report):
    ks = config.task.evaluation.ks
    if not ks or list(ks) != sorted(set(ks)):
        report.refuse(
            "task.evaluation.ks",
            "increasing, without repetition, and not empty",
            "write for example [1, 5, 10]",
        )


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


def _check_replicas(config, report):
    check_num_replicas(config, report)
    report.multiple(f"{_DATA}.global_batch_size", "runtime.num_replicas")


RULES = (
    _check_steps,
    _check_learning_rate,
    _check_patterns,
    _check_best_metric,
    _check_batch_parts,
    _check_preset,
    _check_text_encoder,
    _check_class_names,
    _check_temperature,
    _check_data,
    _check_held_out,
    _check_ks,
    _check_replicas,
)
