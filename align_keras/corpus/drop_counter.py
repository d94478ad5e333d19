"""Counter of the pairs that a corpus keeps, drops, filters and converts."""

import collections

from align_keras.utils.errors import InputError
from align_keras.utils.pillow_images import NO_HEIC
from align_keras.utils.svg_drawing import NO_RENDERER

# Remedies that the summary prints, by drop reason.
_REMEDIES = {
    "missing": "Check the path. It is relative to the file that names it.",
    "empty": "Copy the file again. Its download may have failed.",
    "unreadable": "Convert it to PNG or JPEG, or remove the pair.",
    "truncated": "Copy or download the file again.",
    "oversized": "Reduce the image.",
    "zero size": "Remove the pair.",
    "outside the source": (
        "Move the image below the source's folder, or use a parent folder as the "
        "source."
    ),
    NO_RENDERER: 'Run `pip install "align-keras[svg]"`.',
    NO_HEIC: 'Run `pip install "align-keras[heic]"`.',
    "empty caption": "Write a caption or remove the pair.",
    "long caption": "Shorten the caption to at most 2,000 characters.",
    "duplicate id": "Give every image a unique id.",
    "malformed line": "Correct the line.",
    "no caption file": "Add a file NAME.txt next to the image.",
}


def printable(text: str) -> str:
    """Escapes the characters of a text that UTF-8 cannot encode.

    File names can contain such characters. Terminals, logs and files reject them.
    """
    return text.encode("utf-8", "backslashreplace").decode()


class DropCounter:
    """Counter of pairs, with one example of each drop reason.

    A *bad* pair cannot be used, for example because its image is unreadable. A
    *filtered* pair could be used, but a rule of the corpus excludes it. Only bad pairs
    count towards `max_bad_fraction`.

    Args:
        unit: plural noun for the counted items in messages.

    Attributes:
        kept_count: number of kept pairs.
        bad: `collections.Counter`, number of bad pairs by reason.
        filtered: `collections.Counter`, number of filtered pairs by reason.
        converted: `collections.Counter`, number of converted images by conversion.
        cleaned: `collections.Counter`, number of captions from which a part was cut,
            by the kind of the part.
        notes: `collections.Counter`, number of kept pairs by remark.
        examples: reason → first example.
    """

    def __init__(self, unit: str = "pairs") -> None:
        self.unit = unit
        self.kept_count = 0
        self.bad: collections.Counter[str] = collections.Counter()
        self.filtered: collections.Counter[str] = collections.Counter()
        self.converted: collections.Counter[str] = collections.Counter()
        self.cleaned: collections.Counter[str] = collections.Counter()
        self.notes: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, str] = {}

    def keep(self, count: int = 1) -> None:
        """Counts kept pairs."""
        self.kept_count += count

    def drop(
        self, reason: str, position: str, detail: str = "", count: int = 1
    ) -> None:
        """Counts bad pairs.

        Args:
            reason: the drop reason.
            position: file or part of a file with the pair, such as "pairs.csv line 7".
            detail: the problem in detail, or "".
            count: number of pairs.
        """
        self.bad[reason] += count
        self._add_example(reason, position, detail)

    def filter(
        self, reason: str, position: str, detail: str = "", count: int = 1
    ) -> None:
        """Counts pairs that a rule of the corpus excludes. See `drop`."""
        self.filtered[reason] += count
        self._add_example(reason, position, detail)

    def convert(self, kind: str | None) -> None:
        """Counts a kept image that was converted, unless `kind` is None."""
        if kind:
            self.converted[kind] += 1

    def clean(self, kind: str) -> None:
        """Counts a caption from which a part was cut, such as a permalink."""
        self.cleaned[kind] += 1

    def note(self, text: str) -> None:
        """Counts a kept pair to which a remark applies."""
        self.notes[text] += 1

    def add(self, other: "DropCounter") -> None:
        """Adds the counts of another counter.

        If both have an example of a reason, the example of this counter is used.
        """
        self.kept_count += other.kept_count
        for name in ("bad", "filtered", "converted", "cleaned", "notes"):
            getattr(self, name).update(getattr(other, name))
        self.examples = other.examples | self.examples

    def check(self, max_bad_fraction: float) -> None:
        """Raises if no pair was kept, or if too many pairs are bad.

        Args:
            max_bad_fraction: largest allowed number of bad pairs, divided by the number
                of bad and kept pairs.

        Raises:
            InputError: if no pair was kept, or if too many pairs are bad.
        """
        bad = self.bad.total()
        total = self.kept_count + bad
        counts = [*self.bad.most_common(), *self.filtered.most_common()]
        reasons = ", ".join(
            f"{count} {reason} (e.g. {self.examples[reason]})"
            for reason, count in counts
        )
        if not self.kept_count:
            cause = f": {reasons}" if reasons else ""
            raise InputError(
                f"The corpus must not be empty. Received: no usable {self.unit} among "
                f"{total + self.filtered.total()}{cause}. Add at least one readable "
                "image with a caption."
            )
        if bad > max_bad_fraction * total:
            fraction = min(1.0, (int(100 * bad / total) + 1) / 100)  # Rounded up.
            raise InputError(
                f"At most {max_bad_fraction:.0%} of the {self.unit} may be bad. "
                f"Received: {bad} of {total} {self.unit} ({bad / total:.1%}) are bad: "
                f"{reasons}. Repair the bad {self.unit}, or set `max_bad_fraction` to "
                f"{fraction} to leave them out."
            )

    def as_metadata(self) -> dict:
        """Returns the counts as JSON data.

        `dropped` has the counts of the bad and of the filtered pairs. `filtered` lists
        the reasons of the filtered pairs.
        """
        metadata = {
            "kept": self.kept_count,
            "dropped": dict(sorted((self.bad + self.filtered).items())),
            "filtered": sorted(self.filtered),
            "converted": dict(sorted(self.converted.items())),
            "examples": dict(sorted(self.examples.items())),
        }
        if self.cleaned:
            metadata["cleaned"] = dict(sorted(self.cleaned.items()))
        if self.notes:
            metadata["notes"] = dict(sorted(self.notes.items()))
        return metadata

    @classmethod
    def from_metadata(cls, metadata: dict) -> "DropCounter":
        """Restores a counter from the data of `as_metadata`."""
        counter = cls()
        counter.kept_count = metadata["kept"]
        counter.converted.update(metadata["converted"])
        counter.cleaned.update(metadata.get("cleaned", {}))
        counter.notes.update(metadata.get("notes", {}))
        counter.examples.update(metadata["examples"])
        for reason, count in metadata["dropped"].items():
            is_filtered = reason in metadata["filtered"]
            (counter.filtered if is_filtered else counter.bad)[reason] = count
        return counter

    def lines(self) -> list[str]:
        """Returns a summary: a line with the kept pairs, then a line per reason."""
        lines = [f"{self.kept_count} {self.unit} kept"]
        for reason, count in self.bad.most_common():
            remedy = _REMEDIES.get(reason)
            lines.append(
                f"{count} dropped, {reason}: {self.examples[reason]}"
                + (f". {remedy}" if remedy else "")
            )
        for reason, count in self.filtered.most_common():
            lines.append(
                f"{count} filtered, {reason}: {self.examples[reason]}. A rule of the "
                "corpus excludes them. No action is needed."
            )
        for kind, count in self.converted.most_common():
            lines.append(f"{count} converted to 8-bit RGB on white, {kind}")
        for kind, count in self.cleaned.most_common():
            lines.append(f"{count} captions cleaned of {kind}")
        for text, count in self.notes.most_common():
            lines.append(f"{count} {text}")
        return lines

    def _add_example(self, reason: str, position: str, detail: str) -> None:
        if reason not in self.examples:
            text = f"{position}: {detail}" if detail else position
            self.examples[reason] = printable(text)
