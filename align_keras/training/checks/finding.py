"""Finding of a check of a training."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Finding:
    """Problem of a training, with its remedy.

    Attributes:
        name: name of the problem in `findings.json`, such as `"few_pairs"`.
        problem: one sentence about the cause.
        remedy: one sentence about the change that helps.
        step: number of updates after which the problem was detected.
        details: dict of JSON values, the numbers that the sentence contains.

    Example:

    >>> finding = Finding("few_pairs", "There are 9 pairs.", "Add pairs.")
    >>> print(finding)
    There are 9 pairs. Add pairs.
    """

    name: str
    problem: str
    remedy: str
    step: int = 0
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"

    def as_dict(self) -> dict[str, Any]:
        """Returns the entry of `findings.json`, or the content of `diagnosis.json`."""
        return {
            "name": self.name,
            "step": self.step,
            "problem": self.problem,
            "remedy": self.remedy,
            **self.details,
        }

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> "Finding":
        """Returns the finding of an entry that `as_dict` returned."""
        details = dict(entry)
        name, problem, remedy = (
            str(details.pop(key)) for key in ("name", "problem", "remedy")
        )
        step = int(details.pop("step"))
        return cls(name, problem, remedy, step, details)
