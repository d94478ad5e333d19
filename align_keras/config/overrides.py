"""Overrides of single options in TF Model Garden's syntax: `a.b=c,d.e=f`."""

from align_keras.config.build import merge
from align_keras.config.yaml_source import Located, parse_yaml
from align_keras.utils.errors import InputError

_SOURCE = "params_override"
_CLOSING = {"[": "]", "{": "}"}


def parse_overrides(text):
    """Reads overrides.

    Args:
        text: str such as `"trainer.seed=1,task.evaluation.ks=[1, 5]"`. Values
            are YAML; commas in brackets or quotes belong to the value.

    Returns:
        `Located` whose value is a dict as deep as the keys; a later override
        of the same key wins.

    Raises:
        InputError: where an item isn't `key=value`, brackets or quotes stay
            open, or a value isn't YAML.

    Example:

    >>> tree = parse_overrides("trainer.seed=1")
    >>> tree.value["trainer"].value["seed"].value
    1
    """
    tree = Located({}, _SOURCE)
    for item in _split(text):
        if item.strip():
            tree = merge(tree, _parse_item(item.strip()))
    return tree


def overrides_of(values):
    """Makes a tree of plain values, for callers that have no text.

    Args:
        values: dict from dotted key to plain value.

    Returns:
        `Located`, as `parse_overrides`.
    """
    tree = Located({}, _SOURCE)
    for key, value in values.items():
        where = f"{_SOURCE} '{key}={value}'"
        tree = merge(tree, _nest(key, Located(value, where)))
    return tree


def _split(text):
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
            f"{_SOURCE}: {quote or open_brackets[-1]!r} is missing at the end of "
            f"'{text[start:].strip()}'; close it."
        )
    return [*items, text[start:]]


def _opens_quote(text, position, closed):
    """Whether a quote begins a string; in Bob's it's an apostrophe.

    It does where a value may begin, and as the second half of a single quote
    that YAML escapes by doubling it.
    """
    doubled = text[position] == "'" and closed == position - 1 >= 0
    return doubled or text[:position].rstrip()[-1:] in ("=", ",", *"[{:")


def _is_escaped(text, position, quote):
    backslashes = len(text[:position]) - len(text[:position].rstrip("\\"))
    return quote == '"' and backslashes % 2 == 1


def _parse_item(item):
    key, equals, value = item.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise InputError(
            f"{_SOURCE}: each item must be key=value such as trainer.seed=1, "
            f"received '{item}'; put a value that holds a comma in quotes or brackets."
        )
    where = f"{_SOURCE} '{item}'"
    node = parse_yaml(value.strip(), where, show_line=False)
    if node is None:
        node = Located(None, where)
    return _nest(key, node)


def _nest(key, node):
    for name in reversed(key.split(".")):
        node = Located({name: node}, node.where)
    return node
