"""Progress bars and messages on stderr."""

import sys
import time
from typing import Any

from align_keras.utils.addresses import redacted

# Seconds between two lines of progress where the output is not a terminal.
LINE_INTERVAL = 15.0


def say(message: str) -> None:
    """Writes one line to stderr, in which passwords of addresses are hidden."""
    print(redacted(message), file=sys.stderr, flush=True)


class progress_bar:
    """A progress bar on a terminal, a line now and then elsewhere; `total` may grow."""

    def __init__(self, title: str, unit: str, total: int, done: int = 0) -> None:
        self._title = title
        self._unit = unit
        self.total = total
        self.done = done
        from rich.console import Console  # Imported late: help pages have no bars.

        self._console = Console(stderr=True)
        self._bar: Any = None
        # Seconds of the clock at the first and the latest call of `advance`.
        self._start: float | None = None
        self._last_line = 0.0
        self._first_done = done

    def __enter__(self) -> "progress_bar":
        if self._console.is_terminal:
            self._bar = _bar(self._console)
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
        """Adds `count` to the number of finished items and shows `note` after it."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count, total=self.total, note=note)
        elif self._start is None:
            # The time before the first call is left out, since a first step compiles.
            self._first_done = self.done
            self._start = self._last_line = time.monotonic()
        elif time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._last_line = time.monotonic()
            self._write_line(note, self._last_line - self._start)

    def _write_line(self, note: str, elapsed: float) -> None:
        rate = (self.done - self._first_done) / elapsed
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


def _bar(console: Any) -> Any:
    from rich import progress
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        """Things per second, with their name."""

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
        console=console,
    )
