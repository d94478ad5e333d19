"""Ranges, and rules between options."""

import codecs
import dataclasses
import math
import re

from align_keras.config.build import WrongTypeError, coerce
from align_keras.config.tree import fields_of
from align_keras.config.yaml_source import describe
from align_keras.utils.errors import InputError


def validate(config, places=None):
    """Checks types, ranges and the rules between options.

    Args:
        config: `ExperimentConfig`.
        places: dict from dotted key to the place where it was given, or None;
            messages name it.

    Returns:
        The same config.

    Raises:
        InputError: for the first rule that is broken.

    Example:

    >>> import dataclasses
    >>> from align_keras.config import ExperimentConfig, RuntimeConfig
    >>> validate(ExperimentConfig(runtime=RuntimeConfig(num_replicas=0)))
    Traceback (most recent call last):
    align_keras.utils.errors.InputError: 'runtime.num_replicas' must be >= 1,
    received 0; choose a value in that range.
    """
    report = _Report(places or {})
    _check_fields(config, "", report)
    for rule in (
        _check_steps,
        _check_learning_rate,
        _check_patterns,
        _check_text_encoder,
        _check_class_names,
        _check_data,
        _check_ks,
        _check_replicas,
    ):
        rule(config, report)
    return config


class _Report:
    """Raises one-line errors that begin with the option's place."""

    def __init__(self, places):
        self.places = places

    def refuse(self, key, rule, value, remedy, *others):
        """Refuses `key`; `others` share the fault and may be the given ones."""
        given = next((k for k in (key, *others) if k in self.places), None)
        place = f"{self.places[given]}: " if given else ""
        raise InputError(
            f"{place}'{key}' must be {rule}, received {describe(value)}; {remedy}."
        )


def _check_fields(config, prefix, report):
    for name, (field, hint) in fields_of(type(config)).items():
        key, value = f"{prefix}{name}", getattr(config, name)
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, hint):
                report.refuse(key, f"a {hint.__name__}", value, "construct one")
            _check_fields(value, f"{key}.", report)
            continue
        try:
            coerce(hint, value)
        except WrongTypeError as error:
            report.refuse(key, str(error), value, "change the value")
        _check_range(key, value, field, report)


def _check_range(key, value, field, report):
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            report.refuse(key, "finite", item, "write a number")
        admitted = field.metadata.get("range")
        if admitted and item is not None and not admitted.admits(item):
            report.refuse(key, admitted.rule, item, "choose a value in that range")
        if item == "":
            report.refuse(key, "a non-empty string", item, "write null to leave it out")


def _check_steps(config, report):
    trainer = config.trainer
    for name in (
        "train_steps",
        "checkpoint_interval",
        "validation_interval",
    ):
        steps = getattr(trainer, name)
        if steps % trainer.steps_per_loop:
            report.refuse(
                f"trainer.{name}",
                f"a multiple of trainer.steps_per_loop ({trainer.steps_per_loop})",
                steps,
                "change one of them",
                "trainer.steps_per_loop",
            )


def _check_learning_rate(config, report):
    optimization = config.trainer.optimizer_config
    prefix = "trainer.optimizer_config"
    warmup, schedule = optimization.warmup.get(), optimization.learning_rate.get()
    steps = config.trainer.train_steps
    if warmup and warmup.warmup_steps >= steps:
        report.refuse(
            f"{prefix}.warmup.linear.warmup_steps",
            f"< trainer.train_steps ({steps})",
            warmup.warmup_steps,
            f"shorten the warm-up, or leave it out by {prefix}.warmup.type=null",
            "trainer.train_steps",
        )
    if optimization.learning_rate.type == "linear":
        if schedule.end_learning_rate > schedule.initial_learning_rate:
            report.refuse(
                f"{prefix}.learning_rate.linear.end_learning_rate",
                f"<= initial_learning_rate ({schedule.initial_learning_rate})",
                schedule.end_learning_rate,
                "exchange them",
                f"{prefix}.learning_rate.linear.initial_learning_rate",
            )


def _check_patterns(config, report):
    prefix = "trainer.optimizer_config.optimizer"
    for name in ("lamb", "adamw"):
        optimizer = getattr(config.trainer.optimizer_config.optimizer, name)
        for pattern in optimizer.exclude_from_weight_decay:
            try:
                re.compile(pattern)
            except re.error as error:
                report.refuse(
                    f"{prefix}.{name}.exclude_from_weight_decay",
                    "regular expressions",
                    pattern,
                    f"correct it ({error})",
                )


def _check_text_encoder(config, report):
    encoder = config.task.model.text_encoder
    if encoder.hidden_dim and encoder.num_heads:
        if encoder.hidden_dim % encoder.num_heads:
            report.refuse(
                "task.model.text_encoder.hidden_dim",
                f"a multiple of num_heads ({encoder.num_heads})",
                encoder.hidden_dim,
                "change one of them",
                "task.model.text_encoder.num_heads",
            )
    if (encoder.max_sequence_length or encoder.sequence_length) < (
        encoder.sequence_length
    ):
        report.refuse(
            "task.model.text_encoder.max_sequence_length",
            f">= sequence_length ({encoder.sequence_length})",
            encoder.max_sequence_length,
            "change one of them",
            "task.model.text_encoder.sequence_length",
        )


def _check_class_names(config, report):
    model = config.task.model
    image, text = model.image_encoder, model.text_encoder
    fits = image.num_classes == 1000 and image.weights is not None
    if model.project_class_names and not (
        fits and text.weights is not None and not text.projection
    ):
        report.refuse(
            "task.model.project_class_names",
            "false without image_encoder.num_classes=1000, the weights of both towers "
            "and text_encoder.projection=false",
            True,
            "set these, or leave it out",
        )


def _check_data(config, report):
    for section in ("train_data", "validation_data"):
        data, key = getattr(config.task, section), f"task.{section}"
        try:
            codecs.lookup(data.encoding)
        except LookupError:
            report.refuse(
                f"{key}.encoding", "a text encoding", data.encoding, "try utf-8"
            )
        if data.corpus == "pairs" and data.pairs is None:
            report.refuse(
                f"{key}.pairs",
                "a path where corpus is 'pairs'",
                None,
                "name the table or folder",
                f"{key}.corpus",
            )
        if data.pairs is not None and data.corpus not in (None, "pairs"):
            report.refuse(
                f"{key}.corpus",
                f"pairs where {key}.pairs is given",
                data.corpus,
                "leave one of them out",
                f"{key}.pairs",
            )


def _check_ks(config, report):
    ks = config.task.evaluation.ks
    if not ks or list(ks) != sorted(set(ks)):
        report.refuse(
            "task.evaluation.ks",
            "increasing, without repetition, and not empty",
            list(ks),
            "write for example [1, 5, 10]",
        )


def _check_replicas(config, report):
    runtime, replicas = config.runtime, config.runtime.num_replicas
    if replicas is None:
        return
    if runtime.distribution_strategy != "mirrored":
        report.refuse(
            "runtime.distribution_strategy",
            "mirrored where num_replicas is given",
            runtime.distribution_strategy,
            "change it, or write runtime.num_replicas=null",
            "runtime.num_replicas",
        )
    batch = config.task.train_data.global_batch_size
    if batch % replicas:
        report.refuse(
            "task.train_data.global_batch_size",
            f"a multiple of runtime.num_replicas ({replicas})",
            batch,
            "change one of them",
            "runtime.num_replicas",
        )
