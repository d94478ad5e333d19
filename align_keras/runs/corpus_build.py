"""Stages of a corpus build, from the sources to the shards.

The name of a stage's folder contains a digest of everything that its tables depend on.
A build that was killed therefore resumes, and a changed threshold repeats only the
stages that it affects.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.config import CorpusConfig, write_config_file
from align_keras.config.corpus_config import DuplicatesConfig
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.duplicates.embeddings import write_embeddings
from align_keras.corpus.duplicates.hashes import hash_array
from align_keras.corpus.duplicates.near_duplicates import (
    DUPLICATE,
    NEAR_EVALUATION,
    Dropped,
    ImageSet,
    find_duplicates,
)
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
    REFUSED,
    cut_table,
    group_piece,
    kept_captions,
    kept_images,
    kept_texts,
    load_hook,
    store_images,
)
from align_keras.corpus.parquet_tables import read_rows
from align_keras.corpus.shard_folder import (
    INDEX,
    SHARDS,
    has_all_shards,
    place_shards,
)
from align_keras.corpus.sources import (
    SourcePair,
    is_remote,
    open_source,
    read_part,
)
from align_keras.corpus.sources.source import (
    SHARD_KINDS,
    evaluation_source,
    extract_part,
    merged_counts,
)
from align_keras.corpus.sources.uid_subset import write_uid_subset
from align_keras.embedders.loading import worker_model
from align_keras.embedders.locations import keras_or_auto, locate_model
from align_keras.reports.corpus_report import write_corpus_report
from align_keras.text.vocabulary import Coverage, learn_vocabulary, save_vocabulary
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError, check_tensorflow
from align_keras.utils.files import atomic_write, locked, refuse_url
from align_keras.utils.progress import say
from align_keras.utils.tasks import LOCAL, check_same, is_cluster, run_tasks

STAGE_NAMES = ("extract", "filter", "images", "dedup", "vocab", "shard", "report")
CORPUS_VOCABULARY = "vocabulary.txt"
# Part of the digest of every stage. Increase this version if the results of the code
# change.
_VERSION = 5
# Search method for embeddings, part of the digest of the stages that search.
_SEARCH = "faiss"
_PAIRS_PER_PIECE = 20_000
_STORED_COLUMNS = ["image_key", "pixel_key", "fault", "perceptual_hash"]
_CAPTIONS_PER_LANGUAGE = 20_000
_LANGUAGES = 200
# File with the results of a stage. It exists when the stage is done.
_DONE = "done.json"


class StageFolder:
    """Folder of a stage.

    Args:
        out: folder of the corpus.
        name: str, name of the stage.
        inputs: JSON values that the tables of the stage depend on. Their digest is
            part of the folder's name.
    """

    def __init__(self, out: str | pathlib.Path, name: str, inputs: Any) -> None:
        text = json.dumps([name, inputs], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        self.path = pathlib.Path(out, "stages", f"{name}-{digest}")
        self.path.mkdir(parents=True, exist_ok=True)
        self.tasks = self.path / "tasks"

    @property
    def key(self) -> str:
        """Name of the folder. Later stages include it in their inputs."""
        return self.path.name

    def facts(self) -> dict | None:
        """Returns the facts of the stage if it is done, or None."""
        try:
            return json.loads((self.path / _DONE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def finish(self, facts: dict, scratch: Sequence[str] = ()) -> None:
        """Marks the stage as done and removes folders that no later stage needs.

        Args:
            facts: dict, JSON values to save.
            scratch: names of folders to remove.
        """
        with atomic_write(self.path / _DONE) as file:
            json.dump(facts, file, ensure_ascii=False, indent=1, sort_keys=True)
        for name in scratch:
            shutil.rmtree(self.path / name, ignore_errors=True)
        # Tasks that were killed leave temporary files.
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Tables:
    """Tables of a finished stage.

    Attributes:
        folder: `StageFolder`.
        facts: dict that `StageFolder.finish` saved.
    """

    folder: StageFolder
    facts: dict

    def paths(self, name: str = "part") -> list[str]:
        """Returns the paths of the tables of the stage in order."""
        count = self.facts["tables"]
        return [_table_path(self.folder, name, number) for number in range(count)]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus and the tables of the stages that were built.

    Attributes:
        out: absolute path of the corpus's folder.
        config: `CorpusConfig`.
        tables: dict from the name of a stage to its `Tables`.

    Example:

    ```python
    config = align_keras.config.load_corpus_config(["corpus/corpus.yaml"])
    corpus = align_keras.build_corpus("corpus", config)  # opens the built corpus
    isinstance(corpus, Corpus)  # True
    corpus.vocabulary.name  # 'vocabulary.txt'
    ```
    """

    out: pathlib.Path
    config: CorpusConfig
    tables: dict[str, Tables]

    @property
    def shards(self) -> pathlib.Path:
        """Folder of the shards, for training and `tfds.builder_from_directory`."""
        return self.out / SHARDS

    @property
    def vocabulary(self) -> pathlib.Path:
        return self.out / CORPUS_VOCABULARY

    def remote_pairs(self) -> Iterator[SourcePair]:
        """Yields the filtered pairs whose images must still be downloaded."""
        for table in self.tables["filter"].paths():
            for row in read_rows(table):
                if is_remote(row["image"]):
                    yield SourcePair(
                        image=row["image"],
                        caption=row["caption"],
                        rule=row["rule"],
                        language=row["language"],
                        page_url=row["page_url"],
                    )


@dataclasses.dataclass(frozen=True)
class KeptPairs:
    """Images and captions after the removal of copies.

    Attributes:
        images: `Tables` of the stage `images`.
        copies: `Tables` of the stage `dedup`.
    """

    images: Tables
    copies: Tables

    def read_images(self) -> Iterator[dict]:
        """Yields the kept images, including the captions of their duplicates."""
        return kept_images(
            self.images.paths("group"),
            self.images.paths(),
            self.copies.facts["dropped"],
        )

    def read_captions(self) -> Iterator[tuple[str, str]]:
        """Yields each caption with its primary language."""
        return kept_captions(
            self.images.paths("group"),
            self.images.paths(),
            self.copies.facts["dropped"],
        )

    def read_keys(self) -> set[str]:
        """Returns the keys of the kept images and of images with equal pixels."""
        dropped = self.copies.facts["dropped"]
        rows = kept_texts(self.images.paths("group"), self.images.paths(), dropped)
        keys = {row["image_key"] for row in rows}
        equal_keys = {
            key
            for key, reason, kept_key, *_ in dropped
            if reason == DUPLICATE and kept_key in keys
        }
        return keys | equal_keys

    def check_not_empty(self) -> None:
        """Raises InputError with all drop reasons if no image remains."""
        image_count = self.images.facts["images"]
        reasons = collections.Counter(self.images.facts["faults"])
        reasons.update(reason for _, reason, *_ in self.copies.facts["dropped"])
        if image_count > reasons.total():
            return
        counts = [f"{count:,} {reason}" for reason, count in reasons.most_common()]
        remote_count = self.images.facts["remote"]
        if remote_count:
            counts.append(f"{remote_count:,} pairs of images that aren't downloaded")
        summary = ", ".join(counts) or "no pair passes the filters"
        raise InputError(
            f"The corpus must not be empty. Received: {image_count:,} images, all of "
            f"which were dropped ({summary}). Use other sources, or change the "
            "thresholds of `filter` and `duplicates`."
        )


def write_corpus_subset(corpus: Corpus, path: str | os.PathLike) -> int:
    """Writes the uids of the records in a corpus as a subset file of DataComp.

    A source `webdataset:SHARDS?subset=FILE.npy` reads only these records. They are the
    records whose pairs pass the filters and whose image, or an image with equal pixels,
    is in the corpus. The function reads the records of the sources again, and needs
    about 300 bytes of memory for each of them that is in the corpus.

    Args:
        corpus: `Corpus` with the tables of the stage `dedup`.
        path: str or path of the `.npy` file.

    Returns:
        int, number of written uids.

    Raises:
        InputError: if no record of the corpus has a uid.

    Example:

    ```python
    config = align_keras.config.load_corpus_config(["corpus/corpus.yaml"])
    corpus = align_keras.build_corpus("corpus", config, "dedup")
    write_corpus_subset(corpus, "subset.npy")  # such as 19
    ```
    """
    pairs = KeptPairs(corpus.tables["images"], corpus.tables["dedup"])
    keys = pairs.read_keys()
    locations = {
        row["image"]
        for table in corpus.tables["filter"].paths()
        for row in read_rows(table, ["image", "image_key"])
        if row["image_key"] in keys
    }
    uids = _read_uids(corpus.config, locations)
    first_uid = next(uids, None)
    if first_uid is None:
        raise InputError(
            "The records of a corpus must have uids to write a subset. Received: "
            f"{len(locations):,} records of the corpus without a uid. Use a source of "
            "shards with uids."
        )
    return write_uid_subset(path, itertools.chain([first_uid], uids))


def _read_uids(config: CorpusConfig, locations: set[str]) -> Iterator[str]:
    """Yields the uids of the records whose images have one of the locations."""
    for spec in sorted(config.sources):
        source = open_source(spec)
        if source.kind not in SHARD_KINDS:
            continue
        for part in source.parts():
            for pair in read_part(part, DropCounter()):
                if pair.uid and pair.image in locations:
                    yield pair.uid


def build_corpus(
    out: str | pathlib.Path,
    config: CorpusConfig,
    stage: str = "report",
    *,
    workers: int | None = None,
    engine: str = LOCAL,
) -> Corpus:
    """Builds a corpus, or opens it if it is built, as `align-keras corpus`.

    The configuration is saved as `OUT/corpus.yaml`. A second build of the same folder
    waits for the end of the first.

    Args:
        out: folder of the corpus.
        config: `CorpusConfig`, such as `load_corpus_config` returns.
        stage: last stage to run, one of `STAGE_NAMES`. The stages that it depends on
            run before it.
        workers: number of processes. Defaults to the number of cores.
        engine: cluster that runs the tasks, one of `align_keras.utils.tasks.ENGINES`.
            Its machines must have the sources and `out` at the same paths.

    Returns:
        `Corpus`.

    Raises:
        InputError: if there is no source, if a source can't be read, or if nothing
            passes the filters.

    References:
        Jia et al. 2021, section 3.

    Example:

    ```python
    config = align_keras.config.load_corpus_config(
        params_override={"sources": ["html:pages"], "vocabulary.size": 40}
    )
    corpus = build_corpus("corpus", config)
    builder = tfds.builder_from_directory(corpus.shards)
    builder.info.splits["train"].num_examples  # 2
    ```
    """
    refuse_url(out, "out")
    out = pathlib.Path(out).absolute()
    if out.exists() and not out.is_dir():
        raise InputError(
            f"out must be a folder. Received: the file {out}. Choose another folder."
        )
    out.mkdir(parents=True, exist_ok=True)
    _check(config)
    check_choice("stage", stage, STAGE_NAMES)
    if stage in ("shard", "report") and not (out / SHARDS / INDEX).exists():
        check_tensorflow("Writing the shards of a corpus")
    is_cluster(engine)  # This call raises InputError for an unknown engine.
    build = CorpusBuild(out, config, workers, engine)
    tables: dict[str, Tables] = {}
    corpus = Corpus(out, config, tables)
    with locked(
        out / "corpus.yaml",
        lambda: say(f"corpus: waiting for another align-keras corpus on {out}"),
    ):
        write_config_file(config, out / "corpus.yaml")
        tables["extract"] = extract_sources(build, sorted(config.sources))
        if stage == "extract":
            return corpus
        tables["filter"] = apply_filters(build, tables["extract"])
        if stage == "filter":
            return corpus
        tables["images"] = gather_images(build, tables["filter"])
        if stage == "images":
            return corpus
        tables["dedup"] = find_copies(build, tables["images"])
        if stage == "dedup":
            return corpus
        pairs = KeptPairs(tables["images"], tables["dedup"])
        pairs.check_not_empty()
        if stage in ("vocab", "report"):
            tables["vocab"] = learn_corpus_vocabulary(build, pairs)
        if stage in ("shard", "report"):
            tables["shard"] = write_shards(build, pairs)
        if stage == "report":
            write_corpus_report(corpus)
    return corpus


def _check(config: CorpusConfig) -> None:
    """Raises InputError if the sources or a needed encoder are not configured."""
    if not config.sources:
        raise InputError(
            "A corpus must have at least one source. Received: no source. Set "
            "--source, such as --source html:PAGES, or sources in --config."
        )
    if config.duplicates.mode == "embedding":
        try:
            keras_or_auto(str(config.duplicates.encoder))
        except InputError as error:
            text = str(error).replace("`model`", "duplicates.encoder", 1)
            text = text.replace("Received: model=", "Received: duplicates.encoder=")
            raise InputError(text) from None


@dataclasses.dataclass(frozen=True)
class CorpusBuild:
    """Options that all stages of a build share.

    Attributes:
        out: absolute path of the corpus's folder.
        config: `CorpusConfig`.
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
        compute: Callable,
        is_intact: Callable[[StageFolder], bool] | None = None,
    ) -> Tables:
        """Computes a stage, or opens its tables if it is already done.

        Args:
            name: str, name of the stage.
            inputs: JSON values that the result depends on.
            compute: function from the `StageFolder` to the facts of the stage and the
                names of the folders that can be removed.
            is_intact: function that returns False if the files in the `StageFolder` are
                damaged, so that the stage must be computed again. None to trust them.
        """
        folder = StageFolder(self.out, name, [_VERSION, *inputs])
        facts = folder.facts()
        if facts is not None and is_intact is not None and not is_intact(folder):
            facts = None
        if facts is None:
            facts, scratch = compute(folder)
            folder.finish(facts, ("tasks", *scratch))
        return Tables(folder, facts)

    def run(
        self,
        function: Callable,
        tasks: list[dict],
        folder: StageFolder,
        in_process: bool = False,
    ) -> Any:
        """Runs tasks. With `in_process` and no cluster, they run in this process."""
        results = folder.tasks / function.__name__
        workers = 1 if in_process and self.engine == LOCAL else self.workers
        return run_tasks(function, tasks, results, workers=workers, engine=self.engine)


def extract_sources(build: CorpusBuild, specs: Sequence[str]) -> Tables:
    """Reads sources into raw pairs."""
    caption_rules = sorted(set(build.config.caption_rules))
    honor_opt_out = build.config.opt_out == "honor"
    sources = [open_source(spec, honor_opt_out=honor_opt_out) for spec in specs]
    return _extract(build, sources, caption_rules)


def extract_evaluation_images(build: CorpusBuild, spec: str) -> Tables:
    """Reads all images of an evaluation set, even images without usable captions."""
    return _extract(build, [evaluation_source(spec)], [])


def gather_evaluation_images(build: CorpusBuild, spec: str) -> Tables:
    """Writes the images of an evaluation set to tables, as `gather_images`.

    Prints a line if some of the images cannot be compared with the corpus.

    Raises:
        InputError: if no image of the set can be read.
    """
    raw = extract_evaluation_images(build, spec)
    images = gather_images(build, raw)
    counter = DropCounter.from_metadata(raw.facts["counts"])
    faults = collections.Counter(images.facts["faults"])
    # A corpus cannot contain the images that `images.refuse` drops.
    del faults[REFUSED]
    unreadable_count = counter.bad.total() + faults.total()
    remote_count = images.facts["remote"] + counter.filtered["not downloaded"]
    description = (
        f"{unreadable_count:,} unreadable images and {remote_count:,} pairs of images "
        "that aren't downloaded"
    )
    if images.facts["images"] <= faults.total():
        raise InputError(
            "duplicates.against must name sources with readable images on this "
            f"machine. Received: {spec} with {description}. Download the images, or "
            "leave the source out."
        )
    if unreadable_count or remote_count:
        say(f"corpus dedup: the corpus isn't compared with {description} of {spec}")
    return images


def _extract(
    build: CorpusBuild, sources: Sequence[Any], caption_rules: Sequence[str]
) -> Tables:
    inputs: list = [(source.name, source.fingerprint()) for source in sources]
    if caption_rules:
        inputs.append(caption_rules)

    def compute(folder: StageFolder) -> tuple[dict, tuple[str, ...]]:
        parts = [(source, part) for source in sources for part in source.parts()]
        names = ", ".join(source.name for source in sources)
        say(f"corpus extract: {len(parts):,} parts of {names}")
        tasks = [
            {
                "part": dataclasses.asdict(part),
                "source": source.name,
                "table": _table_path(folder, "part", number),
                "spool": str(folder.path / "spool"),
                "caption_rules": caption_rules,
            }
            for number, (source, part) in enumerate(parts)
        ]
        counts = merged_counts(build.run(extract_part, tasks, folder))
        return {"tables": len(parts), "counts": counts}, ()

    return build.stage("extract", inputs, compute)


def apply_filters(build: CorpusBuild, raw: Tables) -> Tables:
    """Applies the paper's filters to the raw pairs in four passes over the tables."""
    thresholds = build.config.filter.model_dump(mode="json")

    def compute(folder: StageFolder) -> tuple[dict, tuple[str, ...]]:
        say(f"corpus filter: {raw.facts['counts']['kept']:,} pairs")
        counts = str(folder.path / "counts")
        tables = raw.paths()
        tasks: list[dict] = [{"table": table, "folder": counts} for table in tables]
        build.run(count_task, tasks, folder)
        partitions = count_partitions(counts)
        shared = {"folder": counts, "thresholds": thresholds, "partitions": partitions}
        tasks = [{**shared, "partition": number} for number in range(partitions)]
        build.run(merge_task, tasks, folder)
        [chosen] = build.run(choose_task, [shared], folder)
        tasks = [
            {**shared, "table": table, "kept": _table_path(folder, "part", number)}
            for number, table in enumerate(tables)
        ]
        result = merge_results(build.run(filter_task, tasks, folder))
        return {"tables": len(tables), "chosen": chosen, **result}, ("counts",)

    inputs = [raw.folder.key, thresholds]
    if build.config.filter.detect_language != "never":
        inputs.append(detector_version())
    return build.stage("filter", inputs, compute)


def gather_images(build: CorpusBuild, pairs: Tables) -> Tables:
    """Writes captions by image to tables `group`, and pixels to tables `part`."""
    form = build.config.images.model_dump(mode="json")
    form["max_pixels"] = build.config.filter.max_pixels
    load_hook(form["refuse"])

    def compute(folder: StageFolder) -> tuple[dict, tuple[str, ...]]:
        count = pairs.facts["counts"]["kept"]
        say(f"corpus images: reading the images of {count:,} pairs")
        cut = str(folder.path / "cut")
        tables = pairs.paths()
        pieces = 1 + count // _PAIRS_PER_PIECE
        tasks = [{"table": table, "folder": cut, "pieces": pieces} for table in tables]
        cut_counts = build.run(cut_table, tasks, folder)
        names = [pathlib.Path(table).stem for table in tables]
        groups = [_table_path(folder, "group", number) for number in range(pieces)]
        tasks = [
            {"folder": cut, "names": names, "piece": number, "table": group}
            for number, group in enumerate(groups)
        ]
        grouped = list(build.run(group_piece, tasks, folder))
        tasks = [
            {**form, "group": group, "table": _table_path(folder, "part", number)}
            for number, group in enumerate(groups)
        ]
        faults: collections.Counter[str] = collections.Counter()
        for stored in build.run(store_images, tasks, folder):
            faults.update(stored["faults"])
        facts = {
            "tables": pieces,
            "remote": sum(counts["remote"] for counts in cut_counts),
            "pairs": sum(counts["pairs"] for counts in grouped),
            "images": sum(counts["images"] for counts in grouped),
            "faults": dict(faults),
        }
        return facts, ("cut",)

    inputs = [pairs.folder.key, form]
    return build.stage("images", inputs, compute)


def find_copies(build: CorpusBuild, images: Tables) -> Tables:
    """Finds near copies of images and returns them in the fact `dropped`."""
    config = build.config.duplicates
    references = {
        spec: gather_evaluation_images(build, spec) for spec in config.against
    }
    keys = [tables.folder.key for tables in references.values()]
    inputs = [images.folder.key, config.model_dump(mode="json"), keys]
    if config.mode == "embedding":
        encoder = locate_model(str(config.encoder)).name
        model = worker_model(encoder, keras_or_auto(encoder))
        inputs += [_SEARCH, model.image_fingerprint]

    def compute(folder: StageFolder) -> tuple[dict, tuple[str, ...]]:
        say(f"corpus dedup: {images.facts['images']:,} images")
        corpus = _read_image_set(build, images, folder)
        evaluation_sets = [
            _read_image_set(build, tables, folder, spec)
            for spec, tables in references.items()
        ]
        dropped = CopySearch(corpus, config).find(evaluation_sets)
        facts = {"tables": 0, "dropped": [list(image) for image in dropped]}
        return facts, ("embeddings",)

    return build.stage("dedup", inputs, compute)


@dataclasses.dataclass(frozen=True)
class CopySearch:
    """Search for copies in a corpus by the thresholds of a configuration.

    Attributes:
        corpus: `ImageSet`.
        config: `DuplicatesConfig`.
    """

    corpus: ImageSet
    config: DuplicatesConfig

    def find(self, evaluation_sets: Sequence[ImageSet]) -> list[Dropped]:
        """Finds copies of evaluation images, then copies among the remaining images."""
        config = self.config
        if config.mode == "embedding":
            threshold = config.min_cosine
            evaluation_threshold = config.min_cosine_against
        else:
            threshold = config.max_distance
            evaluation_threshold = config.max_distance_against
        if not config.inside_corpus or threshold == evaluation_threshold:
            return self._find(
                evaluation_threshold,
                evaluation_sets=evaluation_sets,
                inside_corpus=config.inside_corpus,
            )
        copies = self._find(
            evaluation_threshold, evaluation_sets=evaluation_sets, inside_corpus=False
        )
        near_evaluation = [copy for copy in copies if copy.reason == NEAR_EVALUATION]
        return self._find(threshold, dropped_before=near_evaluation)

    def _find(
        self,
        threshold: float,
        *,
        evaluation_sets: Sequence[ImageSet] = (),
        inside_corpus: bool = True,
        dropped_before: Sequence[Dropped] = (),
    ) -> list[Dropped]:
        mode = "hash"
        options: dict[str, float] = {"threshold": threshold}
        if self.config.mode == "embedding":
            mode = "embedding"
            options["clusters"] = self.config.clusters
            options["nearest"] = self.config.nearest_clusters
        return find_duplicates(
            self.corpus,
            evaluation_sets,
            mode,
            inside_corpus=inside_corpus,
            dropped_before=dropped_before,
            **options,
        )


def _read_image_set(
    build: CorpusBuild, tables: Tables, folder: StageFolder, name: str = ""
) -> ImageSet:
    """Reads the keys, signatures and sizes of stored images."""
    config = build.config.duplicates
    keys: list[str] = []
    pixel_keys: list[str] = []
    hashes: list[bytes] = []
    pixel_counts: list[int] = []
    for group, stored in zip(tables.paths("group"), tables.paths(), strict=True):
        sizes = read_rows(group, ["width", "height"])
        for row, size in zip(read_rows(stored, _STORED_COLUMNS), sizes, strict=True):
            if not row["fault"]:
                keys.append(row["image_key"])
                pixel_keys.append(row["pixel_key"])
                hashes.append(row["perceptual_hash"])
                pixel_counts.append(size["width"] * size["height"])
    if config.mode == "embedding":
        signatures = _embed_stored_images(build, tables, folder, len(keys))
    else:
        signatures = hash_array(hashes)
        if config.mode == "pixels":
            # Equal signatures match no images, so only pixel keys find copies.
            signatures = np.zeros_like(signatures)
    return ImageSet(keys, signatures, pixel_counts, pixel_keys, name)


def _embed_stored_images(
    build: CorpusBuild, tables: Tables, folder: StageFolder, count: int
) -> np.ndarray:
    """Embeds stored images table by table. Returns an array (count, d)."""
    name = locate_model(str(build.config.duplicates.encoder)).name
    fingerprint = worker_model(name, keras_or_auto(name)).image_fingerprint
    path = folder.path / "embeddings" / f"{tables.folder.key}.npy"
    tasks = [
        {
            "encoder": name,
            "fingerprint": fingerprint,
            "table": table,
            "to": str(path.with_suffix(f".{number}.npy")),
        }
        for number, table in enumerate(tables.paths())
    ]
    build.run(embed_stored_images, tasks, folder, in_process=True)
    parts = (np.load(task["to"]) for task in tasks)
    rows = itertools.chain.from_iterable(parts)
    return write_embeddings(path, rows, np.stack, count)


def embed_stored_images(task: dict) -> None:
    """Embeds the images of a table, as a task of `run_tasks`."""
    model = worker_model(task["encoder"], keras_or_auto(task["encoder"]))
    check_same(
        task["encoder"],
        model.image_fingerprint,
        task["fingerprint"],
        "duplicates.encoder",
    )
    count = sum(not row["fault"] for row in read_rows(task["table"], ["fault"]))
    rows = read_rows(task["table"], ["fault", "jpeg"])
    jpegs = (row["jpeg"] for row in rows if not row["fault"])
    write_embeddings(task["to"], jpegs, model.encode_images, count)


def learn_corpus_vocabulary(build: CorpusBuild, pairs: KeptPairs) -> Tables:
    """Learns the vocabulary of the kept captions and writes `OUT/vocabulary.txt`."""
    config = build.config.vocabulary

    def compute(folder: StageFolder) -> tuple[dict, tuple[str, ...]]:
        say("corpus vocab: learning the vocabulary from the remaining captions")
        tokens = learn_vocabulary(
            (caption for caption, _ in pairs.read_captions()),
            config.size,
            min_frequency=config.min_frequency,
            normalization=config.normalization,
        )
        save_vocabulary(tokens, folder.path / CORPUS_VOCABULARY)
        facts = {
            "tables": 0,
            "tokens": len(tokens),
            "normalization": config.normalization,
            "languages": _measure_coverage(
                tokens, config.normalization, pairs.read_captions()
            ),
        }
        return facts, ()

    options = config.model_dump(mode="json")
    inputs = [pairs.images.folder.key, pairs.copies.folder.key, options]
    tables = build.stage("vocab", inputs, compute)
    with atomic_write(build.out / CORPUS_VOCABULARY, "wb") as file:
        file.write((tables.folder.path / CORPUS_VOCABULARY).read_bytes())
    return tables


def _measure_coverage(
    tokens: list[str],
    normalization: str,
    captions: Iterator[tuple[str, str]],
) -> list[dict]:
    """Measures how well the vocabulary covers the first captions of each language."""
    samples: dict[str, list[str]] = {}
    counts: collections.Counter[str] = collections.Counter()
    for caption, language in captions:
        counts[language] += 1
        if counts[language] <= _CAPTIONS_PER_LANGUAGE:
            samples.setdefault(language, []).append(caption)
    coverage = Coverage(tokens, normalization)
    return [
        {
            **coverage.count(samples[language]),
            "language": language or "unknown",
            "captions": count,
        }
        for language, count in counts.most_common(_LANGUAGES)
    ]


def write_shards(build: CorpusBuild, pairs: KeptPairs) -> Tables:
    """Writes the shards that training reads, `OUT/web_pairs/1.0.0`."""
    config = build.config.shards

    def compute(folder: StageFolder) -> tuple[dict, tuple[str, ...]]:
        # Shards that exist may belong to other options.
        check_tensorflow("Writing the shards of a corpus")
        # This import is not at the top, because it loads TensorFlow and no other stage
        # needs it.
        from align_keras.datasets.web_pairs import write_web_pairs

        say("corpus shard: writing the shards")
        notes = {"config": _order_free_config(build.config)}
        counts = write_web_pairs(folder.path, pairs.read_images, config, notes=notes)
        return {"tables": 0, **counts}, ()

    options = config.model_dump(mode="json")
    inputs = [pairs.images.folder.key, pairs.copies.folder.key, options]
    tables = build.stage(
        "shard",
        inputs,
        compute,
        # The final folder has hard links to the shards, so damage can affect both.
        is_intact=lambda folder: has_all_shards(folder.path / SHARDS),
    )
    place_shards(tables.folder.path / SHARDS, build.out / SHARDS)
    return tables


def _order_free_config(config: CorpusConfig) -> dict:
    """Returns the options that the shards depend on, with sorted lists."""
    origin = config.model_dump(mode="json")
    del origin["vocabulary"]
    del origin["score"]
    origin["sources"] = sorted(origin["sources"])
    origin["caption_rules"] = sorted(origin["caption_rules"])
    origin["duplicates"]["against"] = sorted(origin["duplicates"]["against"])
    return origin


def _table_path(folder: StageFolder, name: str, number: int) -> str:
    return str(folder.path / f"{name}-{number:05d}.parquet")
