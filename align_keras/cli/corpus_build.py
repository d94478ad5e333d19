"""The stages of a corpus, each standing on the ones before."""

import dataclasses
import pathlib

from align_keras.config import as_dict
from align_keras.corpus.filter_tables import merge_results
from align_keras.corpus.sources import open_source
from align_keras.corpus.stage_folders import StageFolder
from align_keras.corpus.stages.by_picture import cut_table, group_piece
from align_keras.corpus.stages.extract import extract_part, merged_counts
from align_keras.corpus.stages.filter import (
    choose_task,
    count_task,
    filter_task,
    merge_task,
)
from align_keras.corpus.stages.pictures import load_hook, store_pictures
from align_keras.corpus.text_counts import count_partitions
from align_keras.corpus.workers import LOCAL_RUNNER, run_tasks
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

# Part of every stage's name: raised when the code gives other results.
_VERSION = 4
_PAIRS_PER_PIECE = 20_000


@dataclasses.dataclass
class Tables:
    """What a stage made.

    Attributes:
        folder: `StageFolder`.
        facts: dict, what `StageFolder.finish` was given.
    """

    folder: StageFolder
    facts: dict

    def paths(self, name="part"):
        """Returns the stage's tables, a list of str in order."""
        count = self.facts["tables"]
        return [str(self.folder.path / f"{name}-{i:05d}.parquet") for i in range(count)]


class CorpusBuild:
    """Runs stages, or finds them done.

    Args:
        out: str or path, the corpus's folder.
        config: `CorpusConfig`.
        runner: str, a runner of Apache Beam.
        options: list of str, the runner's.
    """

    def __init__(self, out, config, runner=LOCAL_RUNNER, options=()):
        self.out = pathlib.Path(out).absolute()
        self.config = config
        self.workers = {"runner": runner, "options": tuple(options)}

    def extract(self, specs=None):
        """Reads sources, the corpus's own by default.

        Returns:
            `Tables` of raw pairs.
        """
        sources = [open_source(spec) for spec in sorted(specs or self.config.sources)]
        inputs = [(source.name, source.fingerprint()) for source in sources]

        def run(stage):
            parts = [(source, part) for source in sources for part in source.parts()]
            self._say("extract", f"{len(parts):,} parts of {_listed(sources)}")
            tasks = [
                {
                    "part": dataclasses.asdict(part),
                    "source": source.name,
                    "table": _table(stage, "part", number),
                    "spool": str(stage.path / "spool"),
                }
                for number, (source, part) in enumerate(parts)
            ]
            counts = merged_counts(self._run(extract_part, tasks, stage))
            return {"tables": len(parts), "counts": counts}, ()

        return self.stage("extract", inputs, run)

    def filter(self):
        """Applies the paper's filters to the raw pairs.

        Returns:
            `Tables` of pairs that stay.
        """
        raw = self.extract()
        thresholds = as_dict(self.config.filter)
        inputs = [raw.folder.key, thresholds]

        def run(stage):
            counts = str(stage.path / "counts")
            own = {"folder": counts, "thresholds": thresholds}
            self._say("filter", f"{raw.facts['counts']['kept']:,} pairs")
            tables = raw.paths()
            tasks = [{"table": table, "folder": counts} for table in tables]
            self._run(count_task, tasks, stage)
            partitions = count_partitions(counts)
            own["partitions"] = partitions
            self._run(
                merge_task, [{**own, "partition": i} for i in range(partitions)], stage
            )
            [chosen] = self._run(choose_task, [own], stage)
            tasks = [
                {**own, "table": table, "kept": _table(stage, "part", number)}
                for number, table in enumerate(tables)
            ]
            result = merge_results(self._run(filter_task, tasks, stage))
            facts = {"tables": len(tables), "chosen": chosen, **result}
            return facts, ("counts",)

        return self.stage("filter", inputs, run)

    def pictures(self, pairs=None):
        """Gathers pairs by picture, and decodes each picture once.

        Args:
            pairs: `Tables` of pairs, those that passed the filters by default.

        Returns:
            `Tables`, with tables `group` of captions and `part` of stored pictures.
        """
        pairs = pairs or self.filter()
        form = as_dict(self.config.pictures)
        form["max_pixels"] = self.config.filter.max_pixels
        load_hook(form["refuse"])

        def run(stage):
            cut = str(stage.path / "cut")
            tables = pairs.paths()
            pieces = 1 + _pairs(pairs) // _PAIRS_PER_PIECE
            self._say("pictures", f"of {_pairs(pairs):,} pairs")
            tasks = [
                {"table": table, "folder": cut, "pieces": pieces} for table in tables
            ]
            places = self._run(cut_table, tasks, stage)
            names = [pathlib.Path(table).stem for table in tables]
            tasks = [
                {
                    "folder": cut,
                    "names": names,
                    "piece": number,
                    "table": _table(stage, "group", number),
                }
                for number in range(pieces)
            ]
            groups = self._run(group_piece, tasks, stage)
            tasks = [
                {
                    **form,
                    "group": _table(stage, "group", number),
                    "table": _table(stage, "part", number),
                }
                for number in range(pieces)
            ]
            stored = self._run(store_pictures, tasks, stage)
            faults = {}
            for own in stored:
                for reason, count in own["faults"].items():
                    faults[reason] = faults.get(reason, 0) + count
            facts = {
                "tables": pieces,
                "remote": sum(own["remote"] for own in places),
                "pairs": sum(own["pairs"] for own in groups),
                "pictures": sum(own["pictures"] for own in groups),
                "faults": faults,
            }
            return facts, ("cut",)

        return self.stage("pictures", [pairs.folder.key, form], run)

    def stage(self, name, inputs, run):
        """Runs a stage unless it is done.

        Args:
            name: str.
            inputs: list, JSON-ready, what the result depends on.
            run: callable, `StageFolder` → (facts, names of what can be removed).

        Returns:
            `Tables`.
        """
        stage = StageFolder(self.out, name, [_VERSION, *inputs])
        facts = stage.facts()
        if facts is None:
            facts, scratch = run(stage)
            stage.finish(facts, ("tasks", *scratch))
        return Tables(stage, facts)

    def _run(self, function, tasks, stage):
        folder = stage.tasks / function.__name__
        return run_tasks(function, tasks, folder, **self.workers)

    def _say(self, name, what):
        say(f"corpus {name}: {what}")


def check_sources(config):
    """Raises unless there is a source."""
    if not config.sources:
        raise InputError(
            "a corpus needs a source; name one with --source, such as --source "
            "html:PAGES, or as sources in --config."
        )


def _pairs(tables):
    counts = tables.facts["counts"]
    return counts["kept"]


def _table(stage, name, number):
    return str(stage.path / f"{name}-{number:05d}.parquet")


def _listed(sources):
    return ", ".join(source.name for source in sources)
