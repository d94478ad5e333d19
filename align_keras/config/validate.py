"""Types and ranges of options; the rules between them are in `rules.py`."""

import dataclasses
import math

from align_keras.config.build import WrongTypeError, coerce
from align_keras.config.rules import RULES
from align_keras.config.tree import fields_of
from align_keras.config.yaml_source import describe
from align_keras.utils.errors import InputError


def validate(config, places=None, rules=RULES):
    """Checks types, ranges and the rules between options.

    Args:
        config: `ExperimentConfig` or `FineTuningConfig`.
        places: dict from dotted key to the place where it was given, or None;
            messages name it.
        rules: functions of the config and of what refuses a value.

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
    for rule in rules:
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
