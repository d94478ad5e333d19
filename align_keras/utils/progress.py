"""Progress bars and messages on stderr."""

import sys
import time

from align_keras.utils.addresses import redacted

# Without a terminal a line is written at most this often, in seconds.
_LINE_INTERVAL = 15.0


def say(message: str) -> None:
    """Writes one line to stderr, in which passwords of addresses are hidden."""
    print(redacted(message), file=sys.stderr, flush=True)


class progress_bar:
    """A progress bar on a terminal, a line now and then elsewhere; `total` may grow."""

    def __init__(self, title, unit, total, done=0):
        self._title, self._unit = title, unit
        self.total, self.done = total, done
        from rich.console import Console  # Only here, since help has no bars.

        self._console = Console(stderr=True)
        self._bar = self._start = None

    def __enter__(self):
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
        """Counts `count` more; `note` is shown behind."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count, total=self.total, note=note)
        elif self._start is None:
            # What came before was preparation: the first step of training compiles.
            self._began = self.done
            self._start = self._last_line = time.monotonic()
        elif time.monotonic() - self._last_line >= _LINE_INTERVAL:
            self._last_line = time.monotonic()
            self._write_line(note)

    def _write_line(self, note):
        rate = (self.done - self._began) / (self._last_line - self._start)
        left = (self.total - self.done) / max(rate, 1e-9)
        left = f"{left:,.0f} s" if left < 120 else f"{left / 60:,.0f} min"
        say(
            f"{self._title}: {self.done:,} of {self.total:,} {self._unit}, "
            f"{rate:,.0f} {self._unit}/s, {left} left  {note}"
        )

    def __exit__(self, *exception):
        if self._bar is not None:
            self._bar.stop()


def _bar(console):
    from rich import progress
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        """Things per second, with their name."""

        def render(self, task):
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
