"""Ranges of configuration fields, kept in the fields' metadata."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a field admits; a bound of None is no bound.

    Args:
        at_least: number or None, inclusive lower bound.
        above: number or None, exclusive lower bound.
        at_most: number or None, inclusive upper bound.
        below: number or None, exclusive upper bound.

    Example:

    >>> Range(at_least=0, below=1).admits(1.0)
    False
    >>> Range(at_least=0, below=1).rule
    '>= 0 and < 1'
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def admits(self, value):
        """Returns whether the number lies in the range."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    @property
    def rule(self):
        """The range in words, for messages."""
        bounds = (
            (">=", self.at_least),
            (">", self.above),
            ("<=", self.at_most),
            ("<", self.below),
        )
        return " and ".join(f"{sign} {to}" for sign, to in bounds if to is not None)


def number(default, *, at_least=None, above=None, at_most=None, below=None):
    """A dataclass field whose value, or each of whose items, has a range.

    Args:
        default: number, tuple of numbers or None.
        at_least: number or None, inclusive lower bound.
        above: number or None, exclusive lower bound.
        at_most: number or None, inclusive upper bound.
        below: number or None, exclusive upper bound.

    Returns:
        The field, for a dataclass body.
    """
    admitted = Range(at_least, above, at_most, below)
    return dataclasses.field(default=default, metadata={"range": admitted})


def fraction(default):
    """A dataclass field in [0, 1)."""
    return number(default, at_least=0, below=1)


def count(default, at_least=1):
    """A dataclass field that counts: `at_least` or more."""
    return number(default, at_least=at_least)
