"""Reading and writing of metrics.jsonl, which has a line for each logged step."""

import json
import os
import pathlib
from collections.abc import Mapping

from align_keras.utils.files import atomic_write


class MetricsLog:
    """File `metrics.jsonl` of a run."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a line with values rounded to 6 significant digits."""
        line: dict[str, float] = {"step": int(step)}
        line.update({name: float(f"{value:.6g}") for name, value in values.items()})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read(self) -> list[dict]:
        """Returns all complete lines as dicts.

        The last line is left out if it is incomplete, since a process may be killed
        while it writes.
        """
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def newest(self) -> dict[str, float]:
        """Returns the newest value of each metric."""
        return dict(item for line in self.read() for item in line.items())

    def truncate_after(self, step: int) -> None:
        """Removes the lines of later steps, which a resumed run writes again."""
        if not self.path.exists():
            return
        lines = [line for line in self.read() if line["step"] <= step]
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
