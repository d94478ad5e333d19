"""Reader of YAML files and of overrides such as `a.b=c,d.e=f`."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from align_keras.utils.errors import InputError

_OVERRIDE = "params_override"


@dataclasses.dataclass
class Layer:
    """Values of a file or an override.

    Attributes:
        values: nested dict.
        locations: dict from dotted key to the place where it was set, such as
            "run.yaml, line 3".
    """

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    locations: dict[str, str] = dataclasses.field(default_factory=dict)

    def set(self, key: str, value: Any, location: str) -> None:
        """Sets the value of a dotted key."""
        *parents, name = key.split(".")
        section = self.values
        for level, parent in enumerate(parents, start=1):
            if not isinstance(section.get(parent), dict):
                section[parent] = {}
            section = section[parent]
            self.locations[".".join(parents[:level])] = location
        section[name] = value
        self.locations[key] = location
        if isinstance(value, dict):
            for child in value:
                self.locations[f"{key}.{child}"] = location


class _SyntaxError(InputError):
    """Error for a text that isn't YAML."""


class _Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-3 as a number, as YAML 1.2 does."""


class _Dumper(yaml.SafeDumper):
    """YAML writer that puts the string "1e-3" in quotes."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?[0-9]*\.?[0-9]+[eE][-+]?[0-9]+"),
        list("-+.0123456789"),
    )


def dump_yaml(values: dict[str, Any]) -> str:
    """Returns plain values as YAML."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: str | os.PathLike) -> Layer:
    """Reads a YAML file.

    Raises:
        InputError: if the file isn't a YAML mapping.
    """
    locations: dict[str, str] = {}
    values = _parse(pathlib.Path(path).read_bytes(), str(path), locations)
    if values is None:
        return Layer()
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: a configuration must contain keys and values such as 'trainer:'. "
            f"Received: {values!r:.60}."
        )
    return Layer(values, locations)


def read_overrides(overrides: str | os.PathLike | Mapping[str, Any]) -> Layer:
    """Reads overrides. A later override of the same key has priority.

    Args:
        overrides: as one item of `params_override` in `load_config`.
            A comma in brackets or quotes is part of the value.

    Example:
    >>> read_overrides("trainer.seed=1").values
    {'trainer': {'seed': 1}}
    """
    layer = Layer()
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            layer.set(key, value, f"{_OVERRIDE} '{key}={value}'")
        return layer
    text = os.fspath(overrides)
    if text.endswith((".yaml", ".yml")) and "=" not in text:
        return read_yaml(text)
    item = ""
    syntax_error: _SyntaxError | None = None
    # An item ends at the first comma that is preceded by valid YAML.
    for piece in text.split(","):
        item = f"{item},{piece}" if syntax_error else piece
        try:
            _read_override(item.strip(), layer)
            syntax_error = None
        except _SyntaxError as error:
            syntax_error = error
    if syntax_error:
        raise syntax_error
    return layer


def _read_override(item: str, layer: Layer) -> None:
    key, equals, value = (part.strip() for part in item.partition("="))
    location = f"{_OVERRIDE} '{_one_line(item)}'"
    if not item:
        return
    if not equals or not all(key.split(".")):
        raise InputError(
            f"{_OVERRIDE}: each item must be key=value such as trainer.seed=1. "
            f"Received: '{_one_line(item)}'. Put a value with a comma in quotes or "
            "brackets."
        )
    layer.set(key, _parse(value, location), location)


def _parse(
    text: str | bytes, source: str, locations: dict[str, str] | None = None
) -> Any:
    """Returns the value of a YAML text, and adds the lines of its keys to a dict."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _add_locations(node, "", source, {} if locations is None else locations)
        return loader.construct_document(node)
    # `int` and `datetime` raise ValueError for scalars that only look like theirs.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark and locations is not None else ""
        problem = getattr(error, "problem", None) or error
        raise _SyntaxError(
            f"{source}{line}: not valid YAML ({_one_line(problem)}). Correct the text."
        ) from None


def _add_locations(
    node: yaml.Node, prefix: str, path: str, locations: dict[str, str]
) -> None:
    """Adds the line of each key of a mapping, and refuses repeated keys."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        mark = key_node.start_mark
        if key in locations:
            raise yaml.MarkedYAMLError(
                problem=f"the key '{key}' is repeated", problem_mark=mark
            )
        locations[key] = f"{path}, line {mark.line + 1}"
        _add_locations(value_node, f"{key}.", path, locations)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
