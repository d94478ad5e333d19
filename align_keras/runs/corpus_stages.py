"""Stages of a corpus build, from the sources to tables of images.

The name of a stage's folder contains a digest of everything that its tables depend on.
A build that was killed therefore resumes, and a changed threshold repeats only the
stages that it affects.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from align_keras.config import CorpusConfig
from align_keras.corpus.filters.counts import count_partitions
from align_keras.corpus.filters.languages import detector_version
from align_keras.corpus.filters.tables import (
    choose_task,
    count_task,
    filter_task,
    merge_results,
    merge_task,
)
from align_keras.corpus.image_tables import (
    cut_table,
    group_piece,
    load_hook,
    store_images,
)
from align_keras.corpus.sources.extraction import extract_part, merged_counts
from align_keras.utils.files import atomic_write
from align_keras.utils.progress import say
from align_keras.utils.tasks import LOCAL, run_tasks

# Part of the digest of every stage. Increase this version if the results of the code
# change.
_VERSION = 5
_PAIRS_PER_PIECE = 20_000
# File with the results of a stage. It exists when the stage is done.
_DONE = "done.json"


class CorpusStage:
    """Folder of a stage with its tables.

    Args:
        out: folder of the corpus.
        name: name of the stage.
        inputs: JSON values that the tables of the stage depend on. Their digest is
            part of the folder's name.

    Attributes:
        path: folder.
        key: name of the folder. Later stages include it in their inputs.
        facts: JSON values that `finish` saved, or None if the stage is not done.
    """

    def __init__(self, out: str | pathlib.Path, name: str, inputs: Any) -> None:
        text = json.dumps([name, inputs], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        self.key = f"{name}-{digest}"
        self.path = pathlib.Path(out, "stages", self.key)
        self.path.mkdir(parents=True, exist_ok=True)
        self.facts: Any = None
        if (self.path / _DONE).exists():
            self.facts = json.loads((self.path / _DONE).read_text(encoding="utf-8"))

    def table(self, name: str, number: int) -> str:
        """Returns the path of a table."""
        return str(self.path / f"{name}-{number:05d}.parquet")

    def tables(self, name: str = "part") -> list[str]:
        """Returns the paths of the tables of the finished stage in order."""
        return [self.table(name, number) for number in range(self.facts["tables"])]

    def finish(self, facts: dict, scratch: Sequence[str] = ()) -> None:
        """Marks the stage as done and removes folders that no later stage needs."""
        with atomic_write(self.path / _DONE) as file:
            json.dump(facts, file, ensure_ascii=False, indent=1, sort_keys=True)
        self.facts = facts
        for name in scratch:
            shutil.rmtree(self.path / name, ignore_errors=True)
        # Tasks that were killed leave temporary files.
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class CorpusBuild:
    """Options that all stages of a build share.

    Attributes:
        out: absolute path of the corpus's folder.
        config: configuration.
        workers: number of processes, or None for the number of cores.
        engine: name or address of the cluster, or `LOCAL`.
    """

    out: pathlib.Path
    config: CorpusConfig
    workers: int | None
    engine: str

    def stage(
        self,
        name: str,
        inputs: Sequence,
        compute: Callable[[CorpusStage], tuple[dict, tuple[str, ...]]],
        is_intact: Callable[[CorpusStage], bool] = lambda stage: True,
    ) -> CorpusStage:
        """Computes a stage, or opens it if it is already done.

        Args:
            name: name of the stage.
            inputs: JSON values that the result depends on.
            compute: returns the facts of the stage and the names of the folders that
                can be removed.
            is_intact: returns False if the files of the stage are damaged, so that it
                must be computed again.
        """
        stage = CorpusStage(self.out, name, [_VERSION, *inputs])
        if stage.facts is None or not is_intact(stage):
            facts, scratch = compute(stage)
            stage.finish(facts, ("tasks", *scratch))
        return stage

    def run(
        self,
        function: Callable,
        tasks: list[dict],
        stage: CorpusStage,
        in_process: bool = False,
    ) -> Any:
        """Runs tasks. With `in_process` and no cluster, they run in this process."""
        results = stage.path / "tasks" / function.__name__
        workers = 1 if in_process and self.engine == LOCAL else self.workers
        return run_tasks(function, tasks, results, workers=workers, engine=self.engine)


def extract_sources(
    build: CorpusBuild, sources: Sequence[Any], caption_rules: Sequence[str]
) -> CorpusStage:
    """Reads opened sources into raw pairs."""
    inputs: list = [(source.name, source.fingerprint()) for source in sources]
    if caption_rules:
        inputs.append(caption_rules)

    def compute(stage: CorpusStage) -> tuple[dict, tuple[str, ...]]:
        parts = [(source, part) for source in sources for part in source.parts()]
        names = ", ".join(source.name for source in sources)
        say(f"corpus extract: {len(parts):,} parts of {names}")
        tasks = [
            {
                "part": dataclasses.asdict(part),
                "source": source.name,
                "table": stage.table("part", number),
                "spool": str(stage.path / "spool"),
                "caption_rules": caption_rules,
            }
            for number, (source, part) in enumerate(parts)
        ]
        counts = merged_counts(build.run(extract_part, tasks, stage))
        return {"tables": len(parts), "counts": counts}, ()

    return build.stage("extract", inputs, compute)


def apply_filters(build: CorpusBuild, raw: CorpusStage) -> CorpusStage:
    """Applies the paper's filters to the raw pairs in four passes over the tables."""
    thresholds = build.config.filter.model_dump(mode="json")

    def compute(stage: CorpusStage) -> tuple[dict, tuple[str, ...]]:
        say(f"corpus filter: {raw.facts['counts']['kept']:,} pairs")
        counts = str(stage.path / "counts")
        tables = raw.tables()
        tasks: list[dict] = [{"table": table, "folder": counts} for table in tables]
        build.run(count_task, tasks, stage)
        partitions = count_partitions(counts)
        shared = {"folder": counts, "thresholds": thresholds, "partitions": partitions}
        tasks = [{**shared, "partition": number} for number in range(partitions)]
        build.run(merge_task, tasks, stage)
        [chosen] = build.run(choose_task, [shared], stage)
        tasks = [
            {**shared, "table": table, "kept": stage.table("part", number)}
            for number, table in enumerate(tables)
        ]
        result = merge_results(build.run(filter_task, tasks, stage))
        return {"tables": len(tables), "chosen": chosen, **result}, ("counts",)

    inputs = [raw.key, thresholds]
    if build.config.filter.detect_language != "never":
        inputs.append(detector_version())
    return build.stage("filter", inputs, compute)


def gather_images(build: CorpusBuild, pairs: CorpusStage) -> CorpusStage:
    """Writes captions by image to tables `group`, and pixels to tables `part`."""
    form = build.config.images.model_dump(mode="json")
    form["max_pixels"] = build.config.filter.max_pixels
    load_hook(form["refuse"])

    def compute(stage: CorpusStage) -> tuple[dict, tuple[str, ...]]:
        count = pairs.facts["counts"]["kept"]
        say(f"corpus images: reading the images of {count:,} pairs")
        cut = str(stage.path / "cut")
        tables = pairs.tables()
        pieces = 1 + count // _PAIRS_PER_PIECE
        tasks = [{"table": table, "folder": cut, "pieces": pieces} for table in tables]
        cut_counts = build.run(cut_table, tasks, stage)
        names = [pathlib.Path(table).stem for table in tables]
        groups = [stage.table("group", number) for number in range(pieces)]
        tasks = [
            {"folder": cut, "names": names, "piece": number, "table": group}
            for number, group in enumerate(groups)
        ]
        grouped = list(build.run(group_piece, tasks, stage))
        tasks = [
            {**form, "group": group, "table": stage.table("part", number)}
            for number, group in enumerate(groups)
        ]
        faults: collections.Counter[str] = collections.Counter()
        for stored in build.run(store_images, tasks, stage):
            faults.update(stored["faults"])
        facts = {
            "tables": pieces,
            "remote": sum(counts["remote"] for counts in cut_counts),
            "pairs": sum(counts["pairs"] for counts in grouped),
            "images": sum(counts["images"] for counts in grouped),
            "faults": dict(faults),
        }
        return facts, ("cut",)

    inputs = [pairs.key, form]
    return build.stage("images", inputs, compute)
