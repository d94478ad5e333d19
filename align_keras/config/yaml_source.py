"""Strict YAML as dotted keys with their places, and overrides such as `a.b=c,d.e=f`.

YAML 1.2's core schema, since 1.1, which PyYAML implements, reads `1e-3` as a string,
`yes` as true, `010` as 8 and `1:30` as 90; no duplicate keys, tags or merge keys.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from align_keras.config.fields import describe
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
_CLOSING = {"[": "]", "{": "}"}


@dataclasses.dataclass(frozen=True)
class Given:
    """A value and where it was given.

    Attributes:
        value: scalar, list, or an empty dict where keys stand below it.
        where: such as `"b3.yaml, line 4"`.
        unquoted: the value as it would be read without its quotes.
    """

    value: Any
    where: str
    unquoted: Any


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
    except IsADirectoryError:
        raise InputError(
            f"{path} is a folder, not a configuration file; name the .yaml file in it."
        ) from None
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
            f"'trainer:', received {describe(root[''].value)}; see the files in "
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
            key: Given(value, f"{_OVERRIDE} '{key}={value}'", value)
            for key, value in given.items()
        }
    text = os.fspath(given)
    if text.endswith((".yaml", ".yml")) and "=" not in text:
        return read_yaml(text)
    overrides: dict[str, Given] = {}
    for item in filter(None, map(str.strip, _split(text))):
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise InputError(
                f"{_OVERRIDE}: each item must be key=value such as trainer.seed=1, "
                f"received '{_one_line(item)}'; put a value that holds a comma in "
                "quotes or brackets."
            )
        where = f"{_OVERRIDE} '{_one_line(item)}'"
        read = _parse(value.strip(), _Reader(where, show_line=False), key)
        overrides |= read or {key: Given(None, where, None)}
    return overrides


def _split(text: str) -> list[str]:
    """Splits at the commas that stand in no bracket and no quotes."""
    items, open_brackets, quote, start, closed = [], [], None, 0, -1
    for position, character in enumerate(text):
        if quote:
            if character == quote and not _is_escaped(text, position, quote):
                quote, closed = None, position
        elif character in "'\"" and _opens_quote(text, position, closed):
            quote = character
        elif character in _CLOSING:
            open_brackets.append(_CLOSING[character])
        elif open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
        elif character == "," and not open_brackets:
            items.append(text[start:position])
            start = position + 1
    if quote or open_brackets:
        raise InputError(
            f"{_OVERRIDE}: {quote or open_brackets[-1]!r} is missing at the end of "
            f"'{_one_line(text[start:])}'; close it."
        )
    return [*items, text[start:]]


def _opens_quote(text: str, position: int, closed: int) -> bool:
    """Whether a quote begins a string; in Bob's it's an apostrophe.

    It does where a value may begin, and as the second half of a single quote
    that YAML escapes by doubling it.
    """
    doubled = text[position] == "'" and closed == position - 1 >= 0
    return doubled or text[:position].rstrip()[-1:] in ("=", ",", *"[{:")


def _is_escaped(text: str, position: int, quote: str) -> bool:
    backslashes = len(text[:position]) - len(text[:position].rstrip("\\"))
    return quote == '"' and backslashes % 2 == 1


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
        raise InputError(
            f"{reader.source}{place}: not valid YAML ({_one_line(problem)}); correct "
            "that line."
        ) from None
    except yaml.YAMLError as error:
        raise InputError(
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

    def __init__(self, source: str, show_line: bool = True):
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
            value, unquoted = self.plain(node, ancestors)
            yield key, Given(value, where, unquoted)
            return
        yield key, Given({}, where, {})
        for name, (key_node, value_node) in self.items(node, ancestors).items():
            below = f"{key}.{name}" if key else name
            place = self.where(key_node)
            yield from self.flat(value_node, below, place, (*ancestors, node))

    def plain(self, node: Any, ancestors: tuple) -> tuple[Any, Any]:
        """A node's value twice: as it is, and as if it had no quotes."""
        if isinstance(node, yaml.MappingNode):
            found = {
                name: self.plain(value_node, (*ancestors, node))
                for name, (_, value_node) in self.items(node, ancestors).items()
            }
            value, unquoted = ({k: v[n] for k, v in found.items()} for n in (0, 1))
            return value, unquoted
        self._enter(node, ancestors)
        if isinstance(node, yaml.ScalarNode):
            unquoted = parse_scalar(node.value)
            return (unquoted if node.style is None else node.value), unquoted
        items = [self.plain(item, (*ancestors, node)) for item in node.value]
        return [value for value, _ in items], [unquoted for _, unquoted in items]

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

    def ignore_aliases(self, data):
        return True


def _represent_string(dumper, text):
    style = None if isinstance(parse_scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_string)
