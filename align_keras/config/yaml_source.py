"""Reader of strict YAML files and of overrides such as `a.b=c,d.e=f`.

Each value is returned with its dotted key and its location. Scalars follow the core
schema of YAML 1.2. PyYAML follows YAML 1.1, which reads `1e-3` as a string and `yes` as
true.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from align_keras.config.fields import describe_value
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular

_INT = re.compile(r"[-+]?[0-9]+")
_HEX_OR_OCTAL = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")
_WORDS = dict.fromkeys(("null", "Null", "NULL", "~", ""))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
# Limits of a file. PyYAML takes up to seven seconds per megabyte, and even longer for
# deeply nested values.
_MAX_BYTES = 2**19
_MAX_LEVELS = 20
_MAX_VALUES = 100_000
_TOO_DEEP = "nested too deeply. Write keys with at most six levels."
_OVERRIDE = "params_override"


@dataclasses.dataclass(frozen=True)
class LocatedValue:
    """Value of an option with the location where it was set.

    Attributes:
        value: scalar or list, or an empty dict for a section.
        location: str, such as "run.yaml, line 3".
    """

    value: Any
    location: str


class _SyntaxError(InputError):
    """Error for a text that isn't YAML."""


def parse_scalar(text: str) -> Any:
    """Reads an unquoted scalar by the core schema of YAML 1.2.

    Example:
    >>> [parse_scalar(text) for text in ("1e-3", "yes", "16384", "null")]
    [0.001, 'yes', 16384, None]
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        # Python raises an error for integers with more than 4300 digits.
        return int(text) if len(text) < 1000 else text
    if _HEX_OR_OCTAL.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def read_yaml(path: str | os.PathLike) -> dict[str, LocatedValue]:
    """Reads a YAML file.

    Returns:
        dict from dotted key to value. A section precedes its keys.

    Raises:
        InputError: if the file can't be read or isn't a strict YAML mapping.
    """
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"Configuration file {path} was not found. Check the path."
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} must be a readable file of at most {_MAX_BYTES:,} bytes. Reading "
            f"failed with: {error.strerror}. Check the path."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} must be UTF-8 text. Byte {error.start} is invalid. Save the file "
            "as UTF-8."
        ) from None
    values = _parse(text, _Reader(str(path)))
    if values and not isinstance(values[""].value, dict):
        raise InputError(
            f"{values[''].location}: a configuration must contain keys and values such "
            f"as 'trainer:'. Received: {describe_value(values[''].value)}. See the "
            "files in experiments/."
        )
    values.pop("", None)
    return values


def read_overrides(
    overrides: str | os.PathLike | Mapping[str, Any],
) -> dict[str, LocatedValue]:
    """Reads overrides. A later override of the same key has priority.

    Args:
        overrides: str, path or dict, as one item of `params_override` in `load_config`.
            A comma in brackets or quotes is part of the value.

    Example:
    >>> read_overrides("trainer.seed=1")["trainer.seed"].value
    1
    """
    if isinstance(overrides, Mapping):
        return {
            key: LocatedValue(value, f"{_OVERRIDE} '{key}={value}'")
            for key, value in overrides.items()
        }
    text = os.fspath(overrides)
    if text.endswith((".yaml", ".yml")) and "=" not in text:
        return read_yaml(text)
    values: dict[str, LocatedValue] = {}
    item, syntax_error = "", None
    # An item ends at the first comma that is preceded by valid YAML.
    for piece in text.split(","):
        item = f"{item},{piece}" if syntax_error else piece
        try:
            values |= _read_override(item.strip())
            syntax_error = None
        except _SyntaxError as error:
            syntax_error = error
    if syntax_error:
        raise syntax_error
    return values


def _read_override(item: str) -> dict[str, LocatedValue]:
    key, equals, value = (part.strip() for part in item.partition("="))
    location = f"{_OVERRIDE} '{_one_line(item)}'"
    if not item:
        return {}
    if not equals or not all(key.split(".")) or "," in key:
        raise InputError(
            f"{_OVERRIDE}: each item must be key=value such as trainer.seed=1. "
            f"Received: '{_one_line(item)}'. Put a value with a comma in quotes or "
            "brackets."
        )
    values = _parse(value, _Reader(location, False), key)
    return values or {key: LocatedValue(None, location)}


def _parse(text: str, reader: "_Reader", key: str = "") -> dict[str, LocatedValue]:
    """Parses YAML text. The result is empty if the text is."""
    try:
        reader.check_tokens(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return dict(reader.flatten(node, key, reader.location(node))) if node else {}
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "unreadable"
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark and reader.show_line else ""
        raise _SyntaxError(
            f"{reader.source}{line}: not valid YAML ({_one_line(problem)}). Correct "
            "this line."
        ) from None
    except yaml.YAMLError as error:
        raise _SyntaxError(
            f"{reader.source}: not valid YAML ({_one_line(error)}). Correct the text."
        ) from None
    except RecursionError:
        raise InputError(f"{reader.source}: {_TOO_DEEP}") from None


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_ENDING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


class _Reader:
    """Converter of PyYAML nodes to values with their locations.

    Args:
        source: str, file or override for messages.
        show_line: bool, True to add the number of the line to locations.
    """

    def __init__(self, source: str, show_line: bool = True) -> None:
        self.source = source
        self.show_line = show_line
        self.count = 0

    def location(self, node: Any) -> str:
        """Returns the source and the line of a node or token."""
        line = f", line {node.start_mark.line + 1}" if self.show_line else ""
        return f"{self.source}{line}"

    def check_tokens(self, text: str) -> None:
        """Raises for tags such as `!!float` and for deeply nested values.

        PyYAML would resolve tags when it composes the nodes.
        """
        level = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            level += isinstance(token, _OPENING) - isinstance(token, _ENDING)
            if level > _MAX_LEVELS:
                raise InputError(f"{self.location(token)}: {_TOO_DEEP}")
            if isinstance(token, yaml.TagToken):
                raise InputError(
                    f"{self.location(token)}: tags (!) aren't allowed. Write the plain "
                    "value."
                )

    def flatten(
        self, node: Any, key: str, location: str, ancestors: tuple = ()
    ) -> Iterator[tuple[str, LocatedValue]]:
        """Yields the dotted keys and values of a node and of its descendants.

        Args:
            node: PyYAML node.
            key: str, dotted key of the node.
            location: str, location of the node.
            ancestors: nodes that contain the node, to detect cycles of aliases.
        """
        if not isinstance(node, yaml.MappingNode):
            yield key, LocatedValue(self.plain(node, ancestors), location)
            return
        yield key, LocatedValue({}, location)
        for name, (key_node, value_node) in self.items(node, ancestors).items():
            child_key = f"{key}.{name}" if key else name
            child_location = self.location(key_node)
            yield from self.flatten(
                value_node, child_key, child_location, (*ancestors, node)
            )

    def plain(self, node: Any, ancestors: tuple) -> Any:
        """Returns the value of a node as a scalar, list or dict."""
        if isinstance(node, yaml.MappingNode):
            return {
                name: self.plain(value_node, (*ancestors, node))
                for name, (_, value_node) in self.items(node, ancestors).items()
            }
        self._count(node, ancestors)
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else parse_scalar(node.value)
        return [self.plain(item, (*ancestors, node)) for item in node.value]

    def items(self, node: Any, ancestors: tuple) -> dict[str, tuple[Any, Any]]:
        """Returns the key nodes and value nodes of a mapping by name.

        Raises:
            InputError: if a key is repeated or isn't a word without dots.
        """
        self._count(node, ancestors)
        items: dict[str, tuple[Any, Any]] = {}
        for key_node, value_node in node.value:
            location, name = self.location(key_node), key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(
                    f"{location}: a key must be a word. Received: a list or mapping. "
                    "Remove the brackets."
                )
            if name == "<<":
                raise InputError(
                    f"{location}: merge keys (<<) aren't part of YAML 1.2. Repeat the "
                    "keys."
                )
            if "." in name:
                raise InputError(
                    f"{location}: a key must be a word without dots. Received: "
                    f"'{_one_line(name)}'. Write the part after a dot as a key of a "
                    "nested mapping."
                )
            if name in items:
                raise InputError(
                    f"{location}: the key '{_one_line(name)}' is repeated. It is first "
                    f"at {self.location(items[name][0])}. Remove one of them."
                )
            items[name] = key_node, value_node
        return items

    def _count(self, node: Any, ancestors: tuple) -> None:
        """Counts a node and raises for cycles and for too many values."""
        location = self.location(node)
        if any(node is ancestor for ancestor in ancestors):
            raise InputError(
                f"{location}: an alias refers to a value that contains it. Write the "
                "value instead of the alias."
            )
        self.count += 1
        if self.count > _MAX_VALUES:
            raise InputError(
                f"{location}: a configuration must have at most {_MAX_VALUES:,} "
                "values, including repeated aliases. Remove values."
            )


def dump_yaml(tree: dict) -> str:
    """Formats nested dicts as YAML with the same meaning in YAML 1.1 and 1.2."""
    return yaml.dump(
        tree,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
    )


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes strings that would be parsed as another type."""


def _represent_string(dumper: Any, text: str) -> Any:
    style = None if isinstance(parse_scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_string)
