"""Rules between options; each refuses by `report.refuse(key, rule, value, remedy)`."""

import codecs
import operator
import os
import re

# What a preset settles, by keys below `task.model`.
SETTLED_BY_PRESET = (
    "image_encoder.variant",
    "image_encoder.image_size",
    "text_encoder.variant",
    "text_encoder.sequence_length",
    "projection_dim",
)


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
    if optimization.learning_rate.type == "stepwise":
        _check_boundaries(schedule, f"{prefix}.learning_rate.stepwise", report)
    if optimization.learning_rate.type == "linear":
        if schedule.end_learning_rate > schedule.initial_learning_rate:
            report.refuse(
                f"{prefix}.learning_rate.linear.end_learning_rate",
                f"<= initial_learning_rate ({schedule.initial_learning_rate})",
                schedule.end_learning_rate,
                "exchange them",
                f"{prefix}.learning_rate.linear.initial_learning_rate",
            )


def _check_boundaries(schedule, prefix, report):
    boundaries = schedule.boundaries
    if list(boundaries) != sorted(set(boundaries)):
        report.refuse(
            f"{prefix}.boundaries", "increasing", list(boundaries), "put them in order"
        )
    if len(schedule.values) != len(boundaries) + 1:
        report.refuse(
            f"{prefix}.values",
            f"one value more than boundaries ({len(boundaries)})",
            list(schedule.values),
            "add or remove values",
            f"{prefix}.boundaries",
        )


def _check_patterns(config, report):
    prefix = "trainer.optimizer_config.optimizer"
    for name in ("lamb", "adamw", "sgd"):
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
            metric,
            "choose one, or leave it out",
            "task.evaluation.ks",
        )


def _check_batch_parts(config, report):
    data, loss = config.task.train_data, config.task.loss
    image = config.task.model.image_encoder
    rows = data.global_batch_size // (config.runtime.num_replicas or 1)
    parts = 1 / loss.negatives_fraction
    if abs(parts - round(parts)) > 1e-6 or rows % round(parts):
        report.refuse(
            "task.loss.negatives_fraction",
            f"one over a divisor of a replica's batch ({rows})",
            loss.negatives_fraction,
            "write for example 0.5 or 0.25",
            "task.train_data.global_batch_size",
        )
    micro, ghost = data.micro_batch_size, image.virtual_batch_size
    _check_groups(config, report)
    for key, size in (
        ("task.train_data.micro_batch_size", micro),
        ("task.model.image_encoder.virtual_batch_size", ghost),
    ):
        if size is not None and rows % size:
            report.refuse(
                key,
                f"a divisor of a replica's batch ({rows})",
                size,
                "change one of them",
                "task.train_data.global_batch_size",
            )
        if size is not None and image.synchronized:
            report.refuse(
                key,
                "null where task.model.image_encoder.synchronized is true",
                size,
                "leave one of them out",
                "task.model.image_encoder.synchronized",
            )
    if ghost is not None and micro is not None and micro % ghost:
        report.refuse(
            "task.model.image_encoder.virtual_batch_size",
            f"a divisor of task.train_data.micro_batch_size ({micro})",
            ghost,
            "change one of them",
            "task.train_data.micro_batch_size",
        )


def _check_preset(config, report):
    model = config.task.model
    if model.preset is None:
        return
    for name in SETTLED_BY_PRESET:
        key, value = f"task.model.{name}", operator.attrgetter(name)(model)
        default = operator.attrgetter(name)(type(model)())
        if value != default or (key in report.places and value is not None):
            report.refuse(
                key,
                f"left out where task.model.preset ({model.preset}) settles it",
                value,
                "leave one of them out: task.model.preset=null",
                "task.model.preset",
            )


def _check_groups(config, report):
    """Whose rows are normalized together is said once, and in whole groups."""
    data, image = config.task.train_data, config.task.model.image_encoder
    groups, replicas = image.replicas_per_group, config.runtime.num_replicas
    prefix = "task.model.image_encoder"
    others = {
        f"{prefix}.synchronized is true": image.synchronized,
        f"{prefix}.virtual_batch_size is given": image.virtual_batch_size,
        "task.train_data.micro_batch_size is given": data.micro_batch_size,
    }
    for where, given in others.items():
        if groups is not None and given:
            report.refuse(
                f"{prefix}.replicas_per_group",
                f"null where {where}",
                groups,
                "leave one of them out",
                where.split()[0],
            )
    if groups and replicas and replicas % groups:
        report.refuse(
            f"{prefix}.replicas_per_group",
            f"a divisor of runtime.num_replicas ({replicas})",
            groups,
            "change one of them",
            "runtime.num_replicas",
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


def _check_temperature(config, report):
    model = config.task.model
    if model.initial_temperature is None and model.image_encoder.weights is None:
        report.refuse(
            "task.model.initial_temperature",
            "a number where image_encoder.weights names no ALIGN",
            None,
            "write 1.0, as the paper, or name the weights",
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


def _check_held_out(config, report):
    train, validation = config.task.train_data, config.task.validation_data
    if not _sources(train) & _sources(validation):
        return
    for section, data, part, others in (
        ("validation_data", validation, "test", "training"),
        ("train_data", train, "train", "validation"),
    ):
        if data.tfds_split == "all":
            report.refuse(
                f"task.{section}.tfds_split",
                f"a part, such as {part}, where {others} takes the same pairs",
                "all",
                "name other pairs, or write train for task.train_data.tfds_split and "
                "test for task.validation_data.tfds_split",
                f"task.{section}.pairs",
                f"task.{section}.corpus",
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
            list(ks),
            "write for example [1, 5, 10]",
        )


def check_num_replicas(runtime, report):
    """Refuses a number of replicas without the strategy that makes them."""
    if runtime.num_replicas and runtime.distribution_strategy != "mirrored":
        report.refuse(
            "runtime.distribution_strategy",
            "mirrored where num_replicas is given",
            runtime.distribution_strategy,
            "change it, or write runtime.num_replicas=null",
            "runtime.num_replicas",
        )


def _check_replicas(config, report):
    check_num_replicas(config.runtime, report)
    replicas, batch = (
        config.runtime.num_replicas,
        config.task.train_data.global_batch_size,
    )
    if replicas and batch % replicas:
        report.refuse(
            "task.train_data.global_batch_size",
            f"a multiple of runtime.num_replicas ({replicas})",
            batch,
            "change one of them",
            "runtime.num_replicas",
        )


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
