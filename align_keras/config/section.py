"""Base class of the sections of a configuration, and the types of their options.

An option is a field with a default and a description. The field has the rules for its
value, and `check_rules` of its section has the rules between options.
"""

import operator
import re
from typing import Annotated, Any, NoReturn

import pydantic
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from align_keras.utils.errors import InputError

# Characters of a value in a message.
_MAX_DESCRIPTION = 60
CHANGE_ONE = "Change one of them."
# Remedy of options that exclude each other.
OMIT_ONE = "Leave one of them out."
# `json_schema_extra` of an option, or of a section with all of its options, that may
# change when a run resumes: length, rates, intervals, trackers, paths and devices. All
# other options determine the meaning of the weights, of the batches or of the
# optimizer's variables.
CHANGEABLE: dict[str, pydantic.JsonValue] = {"changeable": True}


class Report:
    """Checks of rules between the options of a section, which raise `InputError`.

    An error message starts with the location of the option, such as a line of a file.
    The keys of all methods are relative to the section.

    Args:
        section: `Section`.
        prefix: dotted key of the section that ends in a dot, or "".
        locations: dict from dotted key to the location where the option was set.
            Options with default values are missing.
    """

    def __init__(
        self, section: "Section", prefix: str, locations: dict[str, str]
    ) -> None:
        self._section = section
        self._prefix = prefix
        self._locations = locations

    def get(self, key: str) -> Any:
        return operator.attrgetter(key)(self._section)

    def name(self, key: str) -> str:
        """Returns the dotted key from the root of the configuration."""
        return self._prefix + key

    def is_set(self, key: str) -> bool:
        """Returns True if a file or an override sets the option."""
        return self.name(key) in self._locations

    def refuse(self, key: str, rule: str, remedy: str, *related_keys: str) -> NoReturn:
        """Raises `InputError` for an option.

        Args:
            key: dotted key of the option.
            rule: end of the sentence "The option must be …" without a period.
            remedy: advice as a sentence.
            related_keys: dotted keys that also cause the error. The message starts with
                the location of the first key that was set.
        """
        located_key = next(filter(self.is_set, (key, *related_keys)), None)
        start = f"{self._locations[self.name(located_key)]}: " if located_key else ""
        raise InputError(
            f"{start}'{self.name(key)}' must be {rule}. Received: "
            f"{describe_value(self.get(key))}. {remedy}"
        )

    def multiple(self, key: str, divisor_key: str) -> None:
        """Raises if an option isn't a multiple of another, unless one is null."""
        value, divisor = self.get(key), self.get(divisor_key)
        if value and divisor and value % divisor:
            rule = f"a multiple of {self.name(divisor_key)} ({divisor})"
            self.refuse(key, rule, CHANGE_ONE, divisor_key)

    def divisor(self, key: str, number: int, meaning: str, *related_keys: str) -> None:
        """Raises if an option isn't a divisor of a number, unless it is null or 0."""
        value = self.get(key)
        if value and number % value:
            rule = f"a divisor of {meaning} ({number})"
            self.refuse(key, rule, CHANGE_ONE, *related_keys)

    def at_most(self, key: str, bound: str) -> None:
        """Raises if an option is larger than another."""
        if self.get(key) > self.get(bound):
            rule = f"<= {self.name(bound)} ({self.get(bound)})"
            self.refuse(key, rule, CHANGE_ONE, bound)

    def refuse_both(self, key: str, other: str) -> None:
        """Raises if an option is set although another is set or true."""
        if self.get(key) is not None and self.get(other):
            state = "true" if self.get(other) is True else "set"
            self.refuse(key, f"null if {self.name(other)} is {state}", OMIT_ONE, other)


class Section(pydantic.BaseModel):
    """Section of a configuration, whose fields are options or sections."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, str_min_length=1
    )

    def check_rules(self, report: Report) -> None:
        """Raises `InputError` if the options of the section don't fit together."""


class OneOf(Section):
    """Section with several members, one of which is used."""

    type: Any

    def get(self) -> Any:
        """Returns the member that is used, or None if `type` is None."""
        return self.type and getattr(self, self.type)


def check_rules(section: Section, locations: dict[str, str], prefix: str = "") -> None:
    """Checks the rules of a section and of its subsections.

    Raises:
        InputError: for the first violated rule.
    """
    for name, value in section:
        if isinstance(value, Section):
            check_rules(value, locations, f"{prefix}{name}.")
    section.check_rules(Report(section, prefix, locations))


def describe_value(value: Any) -> str:
    """Describes a value in a message in the words of YAML."""
    text = "null" if value is None else str(value)
    if isinstance(value, bool):
        text = text.lower()
    if isinstance(value, str):
        text = repr(value)
    return text if len(text) <= _MAX_DESCRIPTION else f"{text[:_MAX_DESCRIPTION]}..."


# === Types of options ===


def value_error(rule: str) -> PydanticCustomError:
    """Returns the error of a validator for a value that violates a rule.

    Args:
        rule: end of the sentence "The option must be …" without a period.
    """
    return PydanticCustomError("rule", "Input should be {rule}", {"rule": rule})


def _check_increasing(values: tuple) -> tuple:
    if list(values) != sorted(set(values)):
        raise value_error("increasing, without repetition")
    return values


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise value_error(f"a regular expression ({error})") from None
    return pattern


# Number in [0, 1).
Fraction = Annotated[float, Field(ge=0, lt=1)]
# NumPy has seeds of 32 bits.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
# Regular expression.
Pattern = Annotated[str, AfterValidator(_check_pattern)]
INCREASING = AfterValidator(_check_increasing)


def named_items(item: type[Section]) -> pydantic.BeforeValidator:
    """Accepts strings for the items of a list, and one string for the list.

    A string is the value of the first field of `item`.
    """
    name = next(iter(item.model_fields))

    def convert(value: Any) -> Any:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            return items
        return tuple({name: item} if isinstance(item, str) else item for item in items)

    return pydantic.BeforeValidator(
        convert,
        json_schema_input_type=str | list[str | item],  # type: ignore[valid-type]
    )
