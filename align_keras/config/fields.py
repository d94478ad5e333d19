"""Functions on the fields of a configuration."""

from collections.abc import Iterator
from typing import Any, TypeVar

from align_keras.config.section import CHANGEABLE, Section
from align_keras.utils.addresses import without_query

_Section = TypeVar("_Section", bound=Section)


def subsection_of(section: type[Section], name: str) -> type[Section] | None:
    """Returns the class of a subsection, or None for an option or an unknown name."""
    field = section.model_fields.get(name)
    hint: Any = field.annotation if field else None
    if isinstance(hint, type) and issubclass(hint, Section):
        return hint
    return None


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
    >>> from align_keras.config.data_config import DataConfig
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
