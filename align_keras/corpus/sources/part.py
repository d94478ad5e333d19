"""A piece of a source that one worker reads by itself."""

import dataclasses


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """A few small files, one file, or a range of a big one.

    Small and picklable, so that it travels to workers. Parts of a source compare in
    the source's order.

    Attributes:
        kind: str, the source's kind.
        root: str, absolute: the folder that `files` lie in.
        files: tuple of str, relative to `root`.
        start: int, the first record (of Parquet: the first row group) of the range.
        stop: int, the one behind the last; 0 means all of the file.
        total: int, how many records the file had when it was listed, 0 where that
            isn't known: a file with another number has changed, and its ranges mean
            nothing any more.
        options: tuple of `(name, value)` of str.
    """

    kind: str
    root: str
    files: tuple
    start: int = 0
    stop: int = 0
    total: int = 0
    options: tuple = ()

    def __str__(self):
        names = self.files[0] if len(self.files) == 1 else f"{len(self.files)} files"
        span = f"[{self.start}:{self.stop}]" if self.stop else ""
        return f"{self.kind}:{self.root}/{names}{span}"
