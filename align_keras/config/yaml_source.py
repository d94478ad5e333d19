"""Strict YAML as dotted keys with their places, and overrides such as `a.b=c,d.e=f`.

YAML 1.2's core schema: 1.1, PyYAML's, reads `1e-3` as a string and `yes` as true.
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
# PyYAML takes up to seven seconds for a megabyte, and longer the deeper it is.
_MOST_BYTES = 2**19
_MOST_LEVELS = 20
_MOST_VALUES = 100_000
_TOO_DEEP = "nested too deeply; no key lies deeper than six levels."
_OVERRIDE = "params_override"


@dataclasses.dataclass(frozen=True)
class Given:
    """A scalar, list or, of a section, empty dict, and where it was given."""

    value: Any
    where: str


class _SyntaxError(InputError):
    """The text isn't YAML."""


def parse_scalar(text: str) -> Any:
    """Reads an unquoted scalar by the core schema of YAML 1.2.

    Example:
    >>> [parse_scalar(text) for text in ("1e-3", "yes", "16384", "null")]
    [0.001, 'yes', 16384, None]
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        # Python refuses to read integers of more than 4300 digits.
        return int(text) if len(text) < 1000 else text
    if _HEX_OR_OCTAL.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def read_yaml(path: str | os.PathLike) -> dict[str, Given]:
    """Reads a YAML file as dotted keys, sections before what they hold, or raises."""
    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no configuration file {path}; check the path.") from None
    except OSError as error:
        raise InputError(
            f"{path} must be a file of at most {_MOST_BYTES:,} bytes that can be read, "
            f"received another ({error.strerror}); check the path."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} isn't UTF-8 text (byte {error.start}); save it as UTF-8."
        ) from None
    root = _parse(text, _Reader(str(path)))
    if root and not isinstance(root[""].value, dict):
        raise InputError(
            f"{root[''].where}: a configuration must be keys and values such as "
            f"'trainer:', received {describe_value(root[''].value)}; see the files in "
            "experiments/."
        )
    root.pop("", None)
    return root


def read_overrides(given: str | os.PathLike | Mapping[str, Any]) -> dict[str, Given]:
    """Reads overrides; a later override of the same key wins.

    `given` is as `load_config`'s; commas in brackets or quotes belong to the value.

    Example:
    >>> read_overrides("trainer.seed=1")["trainer.seed"].value
    1
    """
    if isinstance(given, Mapping):
        return {
            key: Given(value, f"{_OVERRIDE} '{key}={value}'")
            for key, value in given.items()
        }
    text = os.fspath(given)
    if text.endswith((".yaml", ".yml")) and "=" not in text:
        return read_yaml(text)
    overrides: dict[str, Given] = {}
    item, fault = "", None
    # An item ends at the first comma before which its value is YAML.
    for piece in text.split(","):
        item = f"{item},{piece}" if fault else piece
        try:
            overrides |= _override(item.strip())
            fault = None
        except _SyntaxError as error:
            fault = error
    if fault:
        raise fault
    return overrides


def _override(item: str) -> dict[str, Given]:
    key, equals, value = (part.strip() for part in item.partition("="))
    where = f"{_OVERRIDE} '{_one_line(item)}'"
    if not item:
        return {}
    if not equals or not all(key.split(".")) or "," in key:
        raise InputError(
            f"{_OVERRIDE}: each item must be key=value such as trainer.seed=1, "
            f"received '{_one_line(item)}'; put a value that holds a comma in "
            "quotes or brackets."
        )
    return _parse(value, _Reader(where, False), key) or {key: Given(None, where)}


def _parse(text: str, reader: "_Reader", key: str = "") -> dict[str, Given]:
    """Parses YAML text; of an empty one it makes an empty dict."""
    try:
        reader.check_tokens(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return dict(reader.flat(node, key, reader.where(node))) if node else {}
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "unreadable"
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}" if mark and reader.show_line else ""
        raise _SyntaxError(
            f"{reader.source}{place}: not valid YAML ({_one_line(problem)}); correct "
            "that line."
        ) from None
    except yaml.YAMLError as error:
        raise _SyntaxError(
            f"{reader.source}: not valid YAML ({_one_line(error)}); correct it."
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
    """Turns PyYAML's nodes into values with their places."""

    def __init__(self, source: str, show_line: bool = True) -> None:
        self.source = source
        self.show_line = show_line
        self.count = 0

    def where(self, node: Any) -> str:
        line = f", line {node.start_mark.line + 1}" if self.show_line else ""
        return f"{self.source}{line}"

    def check_tokens(self, text: str) -> None:
        """Refuses `!!float` and the like, which PyYAML would resolve, and depths."""
        level = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            level += isinstance(token, _OPENING) - isinstance(token, _ENDING)
            if level > _MOST_LEVELS:
                raise InputError(f"{self.where(token)}: {_TOO_DEEP}")
            if isinstance(token, yaml.TagToken):
                raise InputError(
                    f"{self.where(token)}: tags (!) aren't allowed; write the plain "
                    "value."
                )

    def flat(
        self, node: Any, key: str, where: str, ancestors: tuple = ()
    ) -> Iterator[tuple[str, Given]]:
        """Yields a node's dotted key and value, and those of all below it."""
        if not isinstance(node, yaml.MappingNode):
            yield key, Given(self.plain(node, ancestors), where)
            return
        yield key, Given({}, where)
        for name, (key_node, value_node) in self.items(node, ancestors).items():
            below = f"{key}.{name}" if key else name
            place = self.where(key_node)
            yield from self.flat(value_node, below, place, (*ancestors, node))

    def plain(self, node: Any, ancestors: tuple) -> Any:
        """A node's value."""
        if isinstance(node, yaml.MappingNode):
            return {
                name: self.plain(value_node, (*ancestors, node))
                for name, (_, value_node) in self.items(node, ancestors).items()
            }
        self._enter(node, ancestors)
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else parse_scalar(node.value)
        return [self.plain(item, (*ancestors, node)) for item in node.value]

    def items(self, node: Any, ancestors: tuple) -> dict[str, tuple[Any, Any]]:
        """A mapping's nodes by key; refuses keys that aren't plain words."""
        self._enter(node, ancestors)
        items: dict[str, tuple[Any, Any]] = {}
        for key_node, value_node in node.value:
            where, name = self.where(key_node), key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(
                    f"{where}: a key must be a word, received a list or mapping; "
                    "remove the brackets."
                )
            if name == "<<":
                raise InputError(
                    f"{where}: merge keys (<<) aren't part of YAML 1.2; write the keys "
                    "out."
                )
            if "." in name:
                raise InputError(
                    f"{where}: a key must be a word without dots, received "
                    f"'{_one_line(name)}'; write what follows a dot below the word "
                    "before it."
                )
            if name in items:
                raise InputError(
                    f"{where}: the key '{_one_line(name)}' stands twice, first at "
                    f"{self.where(items[name][0])}; remove one."
                )
            items[name] = key_node, value_node
        return items

    def _enter(self, node: Any, ancestors: tuple) -> None:
        where = self.where(node)
        if any(node is ancestor for ancestor in ancestors):
            raise InputError(f"{where}: an alias holds itself; write the value out.")
        self.count += 1
        if self.count > _MOST_VALUES:
            raise InputError(
                f"{where}: more than {_MOST_VALUES:,} values, aliases counted; a "
                "configuration holds fewer."
            )


def dump_yaml(tree: dict) -> str:
    """Writes nested dicts as YAML that any reader of 1.1 or 1.2 reads alike."""
    return yaml.dump(
        tree,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
    )


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that YAML 1.2 would read as something else."""


def _represent_string(dumper: Any, text: str) -> Any:
    style = None if isinstance(parse_scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_string)
