"""Counts of pairs that were kept, dropped, filtered and converted."""

import collections

from align_keras.utils.errors import InputError

# The reason of `ImageError` where the extra `svg` is missing.
NO_RENDERER = "SVG, which needs resvg-py"
# Remedies by reason, the last column of the summary.
_REMEDIES = {
    "missing": "check the path, which is relative to the file that names it",
    "empty": "copy the file again, its download may have failed",
    "unreadable": "convert it to PNG or JPEG, or remove the pair",
    "truncated": "copy or download the file again",
    "oversized": "reduce the image",
    "zero size": "remove the pair",
    "outside the source": "put the image below the source's folder, or name one above",
    NO_RENDERER: 'run `pip install "align-keras[svg]"`',
    "empty caption": "write a caption or remove the pair",
    "long caption": "shorten the caption to at most 2,000 characters",
    "duplicate id": "give every image an id of its own",
    "malformed line": "correct the line",
    "no caption file": "add a NAME.txt beside the image",
}


class ImageError(ValueError):
    """An image that can't be used; `reason` is what it is counted under."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.reason, self.detail)


def printable(text: str) -> str:
    """Returns a text, such as a file's name, that any terminal, log and file holds."""
    return text.encode("utf-8", "backslashreplace").decode()


class DropCounter:
    """Counts pairs: kept, bad by reason, filtered by reason, changed by kind.

    A *bad* pair can't be used (an unreadable image); a *filtered* one is sound, but a
    rule of the corpus leaves it out. Only bad pairs count against the allowed fraction.
    """

    def __init__(self, unit: str = "pairs") -> None:
        self.unit = unit
        self.kept = 0
        self.bad: collections.Counter[str] = collections.Counter()
        self.filtered: collections.Counter[str] = collections.Counter()
        self.converted: collections.Counter[str] = collections.Counter()
        self.cleaned: collections.Counter[str] = collections.Counter()
        self.notes: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, str] = {}

    def keep(self, count: int = 1) -> None:
        self.kept += count

    def drop(self, reason: str, where: str, detail: str = "", count: int = 1) -> None:
        """Counts bad pairs; `where` says which, such as "pairs.csv line 7"."""
        self.bad[reason] += count
        self._note(reason, where, detail)

    def filter(self, reason: str, where: str, detail: str = "", count: int = 1) -> None:
        """Counts sound pairs that a rule of the corpus leaves out."""
        self.filtered[reason] += count
        self._note(reason, where, detail)

    def convert(self, kind: str | None) -> None:
        """Counts a kept image that was converted; `None` counts nothing."""
        if kind:
            self.converted[kind] += 1

    def clean(self, kind: str) -> None:
        """Counts a caption from which something was cut, such as a permalink."""
        self.cleaned[kind] += 1

    def note(self, text: str) -> None:
        """Counts a kept pair that the summary has a remark about."""
        self.notes[text] += 1

    def add(self, other: "DropCounter") -> None:
        """Adds another's counts; of several examples of a reason this one's stays."""
        self.kept += other.kept
        for name in ("bad", "filtered", "converted", "cleaned", "notes"):
            getattr(self, name).update(getattr(other, name))
        self.examples = other.examples | self.examples

    def check(self, max_bad_fraction: float) -> None:
        """Raises `InputError` on an empty result or too many bad pairs."""
        bad = self.bad.total()
        total = self.kept + bad
        counts = [*self.bad.most_common(), *self.filtered.most_common()]
        reasons = ", ".join(
            f"{count} {reason} (e.g. {self.examples[reason]})"
            for reason, count in counts
        )
        if not self.kept:
            cause = f": {reasons}" if reasons else ""
            raise InputError(
                f"the corpus is empty, no usable {self.unit} among "
                f"{total + self.filtered.total()}{cause}; give at least one "
                "readable image with a caption"
            )
        if bad > max_bad_fraction * total:
            share = min(1.0, (int(100 * bad / total) + 1) / 100)  # Rounded up.
            raise InputError(
                f"{bad} of {total} {self.unit} ({bad / total:.1%}) are bad, more "
                f"than the allowed {max_bad_fraction:.0%}: {reasons}; repair them, or "
                f"set `max_bad_fraction` to {share} to go on without them."
            )

    def as_metadata(self) -> dict:
        """Returns the counts, JSON-ready; `dropped` holds the `filtered` ones too."""
        metadata = {
            "kept": self.kept,
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
        """Restores a counter from what `as_metadata` returned."""
        counter = cls()
        counter.kept = metadata["kept"]
        counter.converted.update(metadata["converted"])
        counter.cleaned.update(metadata.get("cleaned", {}))
        counter.notes.update(metadata.get("notes", {}))
        counter.examples.update(metadata["examples"])
        for reason, count in metadata["dropped"].items():
            filtered = reason in metadata["filtered"]
            (counter.filtered if filtered else counter.bad)[reason] = count
        return counter

    def lines(self) -> list[str]:
        """Returns the summary, one line a reason."""
        lines = [f"{self.kept} {self.unit} kept"]
        for reason, count in self.bad.most_common():
            remedy = _REMEDIES.get(reason)
            lines.append(
                f"{count} dropped, {reason}: {self.examples[reason]}"
                + (f"; {remedy}" if remedy else "")
            )
        for reason, count in self.filtered.most_common():
            lines.append(
                f"{count} left out, {reason}: {self.examples[reason]}; a rule of "
                "the corpus, nothing to do"
            )
        for kind, count in self.converted.most_common():
            lines.append(f"{count} converted to 8-bit RGB on white, {kind}")
        for kind, count in self.cleaned.most_common():
            lines.append(f"{count} captions cleaned of {kind}")
        for text, count in self.notes.most_common():
            lines.append(f"{count} {text}")
        return lines

    def _note(self, reason: str, where: str, detail: str) -> None:
        if reason not in self.examples:
            text = f"{where}: {detail}" if detail else where
            self.examples[reason] = printable(text)
