"""Folders of a corpus's stages, named by what went into them."""

import hashlib
import json
import pathlib
import shutil

from align_keras.utils.files import atomic_write

_DONE = "done.json"


class StageFolder:
    """Where a stage keeps what it makes; the same input finds it again.

    The name ends in a digest of everything that the result depends on, so that
    another threshold or a changed source gets another folder, and a rerun after a
    kill finds its own. A stage is done when its facts are written, last.

    Args:
        out: str or `pathlib.Path`, the corpus's folder.
        name: str, the stage, such as `"filter"`.
        inputs: JSON-ready, what the result depends on: options, the names of the
            folders of earlier stages, fingerprints of sources.

    Attributes:
        path: `pathlib.Path`, made where it doesn't exist.
        tasks: `pathlib.Path`, for the results of the tasks.

    Example:

    >>> import tempfile
    >>> out = tempfile.mkdtemp()
    >>> stage = StageFolder(out, "filter", {"min_unigrams": 3})
    >>> stage.facts() is None
    True
    >>> stage.finish({"kept": 12})
    >>> StageFolder(out, "filter", {"min_unigrams": 3}).facts()
    {'kept': 12}
    """

    def __init__(self, out, name, inputs):
        text = json.dumps([name, inputs], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        self.path = pathlib.Path(out, "stages", f"{name}-{digest}")
        self.path.mkdir(parents=True, exist_ok=True)
        self.tasks = self.path / "tasks"

    @property
    def key(self):
        """str, for the inputs of the stages that stand on this one."""
        return self.path.name

    def facts(self):
        """Returns what `finish` was given, or None while the stage isn't done."""
        try:
            return json.loads((self.path / _DONE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def finish(self, facts, scratch=()):
        """Marks the stage as done.

        Args:
            facts: JSON-ready dict, for the report and for later stages.
            scratch: names of files and folders in `path` that no later stage needs.
        """
        with atomic_write(self.path / _DONE) as file:
            json.dump(facts, file, ensure_ascii=False, indent=1, sort_keys=True)
        for name in scratch:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for leftover in self.path.rglob(".*.tmp"):  # Of tasks that were killed.
            leftover.unlink(missing_ok=True)
