"""Progress bars and messages on standard error."""

import sys
import time
from typing import Any

# Seconds between two progress lines if standard error is not a terminal.
LINE_INTERVAL = 15.0


def say(message: str) -> None:
    """Prints a line on standard error."""
    print(message, file=sys.stderr, flush=True)


class progress_bar:
    """Progress bar on a terminal, or a line every 15 seconds in other outputs.

    Args:
        title: name of the work.
        unit: name of the items in the plural.
        total: number of items. The attribute `total` may be changed later.
        done: number of items that were finished before.

    Example:

    ```python
    with progress_bar("training", "pairs", total=1000) as bar:
        bar.advance(100, "loss 2.000")
    ```
    """

    def __init__(self, title: str, unit: str, total: int, done: int = 0) -> None:
        self._title = title
        self._unit = unit
        self.total = total
        self.done = done
        self._bar: Any = None
        # Seconds of `time.monotonic` at the first call of `advance` and at the last
        # printed line.
        self._start: float | None = None
        self._last_line = 0.0
        self._done_at_start = done

    def __enter__(self) -> "progress_bar":
        if sys.stderr.isatty():
            self._bar = _rich_progress()
            self._task = self._bar.add_task(
                self._title,
                total=self.total,
                completed=self.done,
                unit=self._unit,
                note="",
            )
            self._bar.start()
        return self

    def advance(self, count: int, note: str = "") -> None:
        """Adds `count` finished items and shows `note` after the numbers."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count, total=self.total, note=note)
        elif self._start is None:
            # The rate excludes the items before the first call, because the first
            # training step includes the compilation.
            self._done_at_start = self.done
            self._start = self._last_line = time.monotonic()
        elif time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._last_line = time.monotonic()
            self._write_line(note, self._last_line - self._start)

    def _write_line(self, note: str, elapsed: float) -> None:
        rate = (self.done - self._done_at_start) / elapsed
        seconds = (self.total - self.done) / max(rate, 1e-9)
        remaining = f"{seconds / 60:,.0f} min"
        if seconds < 120:
            remaining = f"{seconds:,.0f} s"
        say(
            f"{self._title}: {self.done:,} of {self.total:,} {self._unit}, "
            f"{rate:,.0f} {self._unit}/s, {remaining} left  {note}"
        )

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _rich_progress() -> Any:
    # The import is local, because it would slow down commands without a bar.
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        """Column with the number of items per second."""

        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed or 0.0
            return Text(f"{speed:,.0f} {task.fields['unit']}/s")

    return progress.Progress(
        progress.SpinnerColumn(),
        "{task.description}",
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        "left",
        progress.TimeRemainingColumn(),
        "{task.fields[note]}",
        console=Console(stderr=True),
    )
