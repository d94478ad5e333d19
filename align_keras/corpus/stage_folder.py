"""Where the stages of a corpus keep what they make."""

import hashlib
import json
import pathlib
import shutil
from collections.abc import Sequence

from align_keras.utils.files import atomic_write

_DONE = "done.json"


class StageFolder:
    """A stage's folder, named by a digest of all inputs; done when facts are there."""

    def __init__(self, out, name, inputs):
        text = json.dumps([name, inputs], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        self.path = pathlib.Path(out, "stages", f"{name}-{digest}")
        self.path.mkdir(parents=True, exist_ok=True)
        self.tasks = self.path / "tasks"

    @property
    def key(self) -> str:
        """For the inputs of the stages that stand on this one."""
        return self.path.name

    def facts(self) -> dict | None:
        """Returns what `finish` was given, or None while the stage isn't done."""
        try:
            return json.loads((self.path / _DONE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def finish(self, facts: dict, scratch: Sequence[str] = ()) -> None:
        """Marks the stage as done, and removes what no later stage needs of it."""
        with atomic_write(self.path / _DONE) as file:
            json.dump(facts, file, ensure_ascii=False, indent=1, sort_keys=True)
        for name in scratch:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for leftover in self.path.rglob(".*.tmp"):  # Of tasks that were killed.
            leftover.unlink(missing_ok=True)
