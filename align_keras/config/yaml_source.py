"""Strict YAML: values with their places, YAML 1.2's numbers, no duplicate keys."""

import dataclasses
import re
from typing import Any

import yaml

from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular

# YAML 1.1, which PyYAML implements, reads `1e-3` as a string, `yes` as true,
# `010` as 8 and `1:30` as 90. YAML 1.2's core schema has none of these traps.
_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_HEX_OR_OCTAL = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")
_MERGE_KEY = "<<"
# PyYAML takes up to seven seconds for a megabyte, and longer the deeper it is.
_MOST_BYTES = 2**19
_MOST_LEVELS = 20
_MOST_VALUES = 100_000


@dataclasses.dataclass(frozen=True)
class Located:
    """A value and where it was given.

    Attributes:
        value: scalar, list of `Located`, or dict from str to `Located`.
        where: str, such as `"b3.yaml, line 4"`.
        quoted: bool, a string in quotes.
    """

    value: Any
    where: str
    quoted: bool = False


def parse_scalar(text):
    """Reads an unquoted scalar by the core schema of YAML 1.2.

    Args:
        text: str.

    Returns:
        None, bool, int, float, or the text itself.

    Example:

    >>> [parse_scalar(text) for text in ("1e-3", "yes", "16384", "null")]
    [0.001, 'yes', 16384, None]
    """
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text.lower() == "true"
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


def read_yaml(path):
    """Reads a YAML file.

    Args:
        path: `pathlib.Path`.

    Returns:
        `Located` whose value is a dict; an empty file gives an empty dict.

    Raises:
        InputError: if the file is missing, unreadable, isn't YAML, or doesn't
            hold keys and values.
    """
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
    root = parse_yaml(text, str(path))
    if root is None:
        return Located({}, str(path))
    if not isinstance(root.value, dict):
        raise InputError(
            f"{root.where}: a configuration must be keys and values such as "
            f"'trainer:', received {describe(root.value)}; see the files in "
            "experiments/."
        )
    return root


def parse_yaml(text, source, show_line=True):
    """Parses YAML text.

    Args:
        text: str.
        source: str, how to name the text in messages.
        show_line: bool, whether messages name the line too.

    Returns:
        `Located`, or None where the text is empty.

    Raises:
        InputError: if it isn't YAML, a key stands twice, or a tag is used.
    """
    reader = _Reader(source, show_line)
    try:
        reader.check_tokens(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if node is None else reader.convert(node, ())
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "unreadable"
        mark = error.problem_mark or error.context_mark
        place = f"{source}, line {mark.line + 1}" if mark and show_line else source
        raise InputError(
            f"{place}: not valid YAML ({_one_line(problem)}); correct that line."
        ) from None
    except yaml.YAMLError as error:
        raise InputError(
            f"{source}: not valid YAML ({_one_line(error)}); correct it."
        ) from None
    except RecursionError:
        raise InputError(
            f"{source}: nested too deeply; no key lies deeper than six levels."
        ) from None


def describe(value):
    """Names a value in a message: what it is, and itself where it's short."""
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"the string {text}" if isinstance(value, str) else text


def _one_line(text):
    return " ".join(str(text).split())


_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_ENDING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


class _Reader:
    """Turns PyYAML's nodes into `Located` values."""

    def __init__(self, source, show_line):
        self.source = source
        self.show_line = show_line
        self.count = 0

    def where(self, node):
        line = f", line {node.start_mark.line + 1}" if self.show_line else ""
        return f"{self.source}{line}"

    def check_tokens(self, text):
        """Refuses `!!float` and the like, which PyYAML would resolve, and depths."""
        level = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            level += isinstance(token, _OPENING) - isinstance(token, _ENDING)
            if level > _MOST_LEVELS:
                raise InputError(
                    f"{self.where(token)}: nested too deeply; no key lies deeper than "
                    "six levels."
                )
            if isinstance(token, yaml.TagToken):
                raise InputError(
                    f"{self.where(token)}: tags (!) aren't allowed; write the plain "
                    "value."
                )

    def convert(self, node, ancestors):
        where = self.where(node)
        if any(node is ancestor for ancestor in ancestors):
            raise InputError(f"{where}: an alias holds itself; write the value out.")
        self.count += 1
        if self.count > _MOST_VALUES:
            raise InputError(
                f"{where}: more than {_MOST_VALUES:,} values, aliases counted; a "
                "configuration holds fewer."
            )
        ancestors = (*ancestors, node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, where)
        if isinstance(node, yaml.SequenceNode):
            items = [self.convert(item, ancestors) for item in node.value]
            return Located(items, where)
        values = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in values:
                raise InputError(
                    f"{self.where(key_node)}: the key '{key}' stands twice, first at "
                    f"{values[key].where}; remove one."
                )
            values[key] = dataclasses.replace(
                self.convert(value_node, ancestors), where=self.where(key_node)
            )
        return Located(values, where)

    def _key(self, node):
        where = self.where(node)
        if not isinstance(node, yaml.ScalarNode):
            raise InputError(
                f"{where}: a key must be a word, received a list or mapping; "
                "remove the brackets."
            )
        if node.value == _MERGE_KEY:
            raise InputError(
                f"{where}: merge keys (<<) aren't part of YAML 1.2; write the keys out."
            )
        return node.value

    def _scalar(self, node, where):
        if node.style is None:
            return Located(parse_scalar(node.value), where)
        return Located(node.value, where, quoted=True)
