"""Base class and types of the sections of a configuration."""

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import Field

from align_keras.utils.addresses import without_query

_Section = TypeVar("_Section", bound="Section")

# Characters of a value in a message.
_MAX_DESCRIPTION = 60
# `json_schema_extra` of an option, or of a section with all of its options, that may
# change when a run resumes: length, rates, intervals, trackers, paths and devices. All
# other options determine the meaning of the weights, of the batches or of the
# optimizer's variables.
CHANGEABLE: dict[str, pydantic.JsonValue] = {"changeable": True}
# Number in [0, 1).
Fraction = Annotated[float, Field(ge=0, lt=1)]
# NumPy has seeds of 32 bits.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


class Section(pydantic.BaseModel):
    """Section of a configuration, whose fields are options or sections."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, str_min_length=1
    )


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


def subsection_of(section: type[Section], name: str) -> type[Section] | None:
    """Returns the class of a subsection, or None for an option or an unknown name."""
    field = section.model_fields.get(name)
    hint: Any = field.annotation if field else None
    if isinstance(hint, type) and issubclass(hint, Section):
        return hint
    return None


def describe_value(value: Any) -> str:
    """Describes a value in a message in the words of YAML."""
    text = "null" if value is None else str(value)
    if isinstance(value, bool):
        text = text.lower()
    if isinstance(value, str):
        text = repr(value)
    return text if len(text) <= _MAX_DESCRIPTION else f"{text[:_MAX_DESCRIPTION]}..."


def leaves(config: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted key and the value of every option in order."""
    for name, value in config:
        if isinstance(value, Section):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def changeable_keys(
    section: type[Section], prefix: str = "", is_changeable: bool = False
) -> Iterator[str]:
    """Yields the dotted keys of the options that may change when a run resumes.

    Example:
    >>> from align_keras.config import TrainerConfig
    >>> next(changeable_keys(TrainerConfig))
    'train_steps'
    """
    for name, field in section.model_fields.items():
        is_marked = is_changeable or field.json_schema_extra == CHANGEABLE
        subsection = subsection_of(section, name)
        if subsection:
            yield from changeable_keys(subsection, f"{prefix}{name}.", is_marked)
        elif is_marked:
            yield f"{prefix}{name}"


def changed_keys(old: Section, new: Section) -> dict[str, tuple[Any, Any]]:
    """Returns the options in which two configurations differ.

    Returns:
        dict from dotted key to a tuple of the old and the new value.

    Example:
    >>> from align_keras.config import load_config
    >>> changed_keys(load_config(), load_config(params_override="trainer.seed=7"))
    {'trainer.seed': (0, 7)}
    """
    new_values = dict(leaves(new))
    return {
        key: (value, new_values[key])
        for key, value in leaves(old)
        if value != new_values[key]
    }


def without_queries(config: _Section) -> _Section:
    """Removes the query strings of the addresses in a configuration.

    `align_keras.utils.addresses.with_query` adds them to requests.

    Example:
    >>> from align_keras.config.experiment_config import DataConfig
    >>> without_queries(DataConfig(pairs="https://host/table.csv?sig=a1")).pairs
    'https://host/table.csv'
    """
    return config.model_validate(_without_queries(config.model_dump()))


def _without_queries(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_queries(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_without_queries, value))
    return without_query(value) if isinstance(value, str) else value
