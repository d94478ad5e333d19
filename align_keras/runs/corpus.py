"""A corpus from its sources to its shards: stages in order, each done once.

A stage's folder is named by everything that its tables depend on: a killed build goes
on where it stopped, and a changed threshold repeats only what it changes.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from align_keras.config import CorpusConfig, as_dict, save_config
from align_keras.corpus.duplicates.embeddings import write_embeddings
from align_keras.corpus.duplicates.hashes import hash_array
from align_keras.corpus.duplicates.near_duplicates import (
    NEAR_EVALUATION,
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
    cut_table,
    group_piece,
    kept_captions,
    kept_images,
    load_hook,
    store_images,
)
from align_keras.corpus.parquet_tables import read_rows
from align_keras.corpus.sources import SourcePair, is_remote, open_source
from align_keras.corpus.sources.source import (
    evaluation_source,
    extract_part,
    merged_counts,
)
from align_keras.embedders.loading import worker_model
from align_keras.embedders.locations import keras_or_auto
from align_keras.protocols.embedding_cache import absolute
from align_keras.reports.corpus_report import write_corpus_report
from align_keras.text.vocabulary import Coverage, learn_vocabulary, save_vocabulary
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, locked, refuse_url
from align_keras.utils.progress import say
from align_keras.utils.tasks import LOCAL, check_same, is_cluster, run_tasks

VOCABULARY = "vocabulary.txt"
# Part of every stage's name: raised when the code gives other results.
_VERSION = 5
# The same of the search among embeddings.
_SEARCH = "faiss"
_PAIRS_PER_PIECE = 20_000
_STORED = ["image_key", "pixel_key", "fault", "perceptual_hash"]
_CAPTIONS_PER_LANGUAGE = 20_000
_LANGUAGES = 200
# What says that a stage is done.
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


@dataclasses.dataclass(frozen=True)
class Tables:
    """What a stage made, and the facts that `StageFolder.finish` was given."""

    folder: StageFolder
    facts: dict

    def paths(self, name: str = "part") -> list[str]:
        """Returns the stage's tables in order."""
        count = self.facts["tables"]
        return [_table(self.folder, name, number) for number in range(count)]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus in the absolute folder `out`, as far as it was built."""

    out: pathlib.Path
    config: CorpusConfig
    tables: dict[str, Tables]

    @property
    def shards(self) -> pathlib.Path:
        """The folder that training and `tfds.builder_from_directory` open."""
        return self.out / "web_pairs/1.0.0"

    @property
    def vocabulary(self) -> pathlib.Path:
        return self.out / VOCABULARY

    def remote_pairs(self) -> Iterator[SourcePair]:
        """Yields the filtered pairs whose image must be fetched first."""
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


def build_corpus(
    out: str | pathlib.Path,
    config: CorpusConfig,
    stage: str = "report",
    *,
    workers: int | None = None,
    engine: str = LOCAL,
) -> Corpus:
    """Builds a corpus, or finds it built: what `align-keras corpus` calls.

    The configuration is saved as `OUT/corpus.yaml`. A second build of the same folder
    waits for the first one's end.

    Args:
        out: the corpus's folder.
        config: `CorpusConfig`, such as `load_corpus_config` returns.
        stage: a key of `STAGES`, the last stage; those that it stands on run before it.
        workers: processes; as many as the machine has cores by default.
        engine: what computes, one of `align_keras.utils.tasks.ENGINES`; a cluster's
            machines see the sources and `out` by the same paths.

    Returns:
        `Corpus`.

    Raises:
        InputError: if there is no source, one can't be read, or nothing passes the
            filters.

    References:
        Jia et al. 2021, section 3.

    Example:

    ```python
    config = load_corpus_config(params_override={"sources": ["html:pages"]})
    corpus = build_corpus("corpus", config)
    tfds.builder_from_directory(corpus.shards)
    ```
    """
    refuse_url(out, "out")
    out = pathlib.Path(out).absolute()
    if out.exists() and not out.is_dir():
        raise InputError(
            f"out must be a folder, received the file {out}; name another."
        )
    out.mkdir(parents=True, exist_ok=True)
    _check(config)
    is_cluster(engine)  # Raises for an unknown one.
    build = _Build(out, config, workers, engine)
    corpus = Corpus(out, config, {})
    with locked(
        out / "corpus.yaml",
        lambda: say(f"corpus: waiting for another align-keras corpus on {out}"),
    ):
        save_config(config, out / "corpus.yaml")
        for name in _up_to(stage):
            function, inputs = STAGES[name]
            if function is not None:
                given = [corpus.tables[before] for before in inputs]
                if inputs == _STORED_AND_COPIES:
                    _check_kept(*given)
                corpus.tables[name] = function(build, *given)
        if stage == "report":
            write_corpus_report(corpus)
    return corpus


def _check(config):
    if not config.sources:
        raise InputError(
            "a corpus needs a source; name one with --source, such as --source "
            "html:PAGES, or as sources in --config."
        )
    if config.duplicates.mode == "embedding":
        try:
            keras_or_auto(config.duplicates.encoder)
        except InputError as error:
            text = str(error).replace("model", "duplicates.encoder", 1)
            raise InputError(text) from None


def _up_to(stage):
    """The names of a stage and of those that it stands on, in order."""
    needed = {stage}
    for name, (_, inputs) in reversed(STAGES.items()):
        needed.update(inputs if name in needed else ())
    return [name for name in STAGES if name in needed]


@dataclasses.dataclass(frozen=True)
class _Build:
    """What every stage is handed besides tables."""

    out: pathlib.Path
    config: CorpusConfig
    workers: int | None
    engine: str

    def stage(self, name, inputs, run):
        """Runs a stage unless it is done; the result depends on JSON-ready `inputs`.

        `run` makes of the `StageFolder` the facts and the names of what can be removed.
        """
        folder = StageFolder(self.out, name, [_VERSION, *inputs])
        facts = folder.facts()
        if facts is None:
            facts, scratch = run(folder)
            folder.finish(facts, ("tasks", *scratch))
        return Tables(folder, facts)

    def run(self, function, tasks, folder, here=False):
        """Runs tasks, in this process where no cluster does and `here` is set."""
        results = folder.tasks / function.__name__
        workers = 1 if here and self.engine == LOCAL else self.workers
        return run_tasks(function, tasks, results, workers=workers, engine=self.engine)


def extract(build: _Build, specs: Sequence[str] | None = None) -> Tables:
    """Reads the corpus's sources, or `specs` of evaluation images, into raw pairs."""
    if specs:
        sources = [evaluation_source(spec) for spec in sorted(specs)]
    else:
        sources = [open_source(spec) for spec in sorted(build.config.sources)]
    inputs: list = [(source.name, source.fingerprint()) for source in sources]
    # Evaluation images leave their copies out whatever their captions are.
    caption_rules = [] if specs else sorted(set(build.config.caption_rules))
    if caption_rules:
        inputs.append(caption_rules)

    def run(folder):
        parts = [(source, part) for source in sources for part in source.parts()]
        names = ", ".join(source.name for source in sources)
        say(f"corpus extract: {len(parts):,} parts of {names}")
        tasks = [
            {
                "part": dataclasses.asdict(part),
                "source": source.name,
                "table": _table(folder, "part", number),
                "spool": str(folder.path / "spool"),
                "caption_rules": caption_rules,
            }
            for number, (source, part) in enumerate(parts)
        ]
        counts = merged_counts(build.run(extract_part, tasks, folder))
        return {"tables": len(parts), "counts": counts}, ()

    return build.stage("extract", inputs, run)


def filter_pairs(build: _Build, raw: Tables) -> Tables:
    """Applies the paper's filters to the raw pairs: four passes over the tables."""
    thresholds = as_dict(build.config.filter)

    def run(folder):
        say(f"corpus filter: {raw.facts['counts']['kept']:,} pairs")
        counts, tables = str(folder.path / "counts"), raw.paths()
        tasks = [{"table": table, "folder": counts} for table in tables]
        build.run(count_task, tasks, folder)
        partitions = count_partitions(counts)
        shared = {"folder": counts, "thresholds": thresholds, "partitions": partitions}
        tasks = [{**shared, "partition": number} for number in range(partitions)]
        build.run(merge_task, tasks, folder)
        [chosen] = build.run(choose_task, [shared], folder)
        tasks = [
            {**shared, "table": table, "kept": _table(folder, "part", number)}
            for number, table in enumerate(tables)
        ]
        result = merge_results(build.run(filter_task, tasks, folder))
        return {"tables": len(tables), "chosen": chosen, **result}, ("counts",)

    inputs = [raw.folder.key, thresholds]
    if build.config.filter.detect_language != "never":
        inputs.append(detector_version())
    return build.stage("filter", inputs, run)


def gather_images(build: _Build, pairs: Tables) -> Tables:
    """Gathers captions by image, in `group`, and decodes each image once, in `part`."""
    form = as_dict(build.config.images)
    form["max_pixels"] = build.config.filter.max_pixels
    load_hook(form["refuse"])

    def run(folder):
        count = pairs.facts["counts"]["kept"]
        say(f"corpus pictures: of {count:,} pairs")
        cut, tables = str(folder.path / "cut"), pairs.paths()
        pieces = 1 + count // _PAIRS_PER_PIECE
        tasks = [{"table": table, "folder": cut, "pieces": pieces} for table in tables]
        places = build.run(cut_table, tasks, folder)
        names = [pathlib.Path(table).stem for table in tables]
        groups = [_table(folder, "group", number) for number in range(pieces)]
        tasks = [
            {"folder": cut, "names": names, "piece": number, "table": group}
            for number, group in enumerate(groups)
        ]
        grouped = build.run(group_piece, tasks, folder)
        tasks = [
            {**form, "group": group, "table": _table(folder, "part", number)}
            for number, group in enumerate(groups)
        ]
        faults = collections.Counter()
        for stored in build.run(store_images, tasks, folder):
            faults.update(stored["faults"])
        facts = {
            "tables": pieces,
            "remote": sum(counts["remote"] for counts in places),
            "pairs": sum(counts["pairs"] for counts in grouped),
            "pictures": sum(counts["pictures"] for counts in grouped),
            "faults": dict(faults),
        }
        return facts, ("cut",)

    return build.stage("pictures", [pairs.folder.key, form], run)


def find_copies(build: _Build, images: Tables) -> Tables:
    """Finds images that are too near to another: `dropped` of the facts names them."""
    config = build.config.duplicates
    references = {
        spec: gather_images(build, extract(build, [spec])) for spec in config.against
    }
    keys = [tables.folder.key for tables in references.values()]
    inputs = [images.folder.key, as_dict(config), keys]
    if config.mode == "embedding":
        encoder = absolute(str(config.encoder))
        model = worker_model(encoder, keras_or_auto(encoder))
        inputs += [_SEARCH, model.image_fingerprint]

    def run(folder):
        say(f"corpus dedup: {images.facts['pictures']:,} images")
        read = functools.partial(_signed_images, build, folder=folder)
        corpus = read(images)
        evaluation = [read(tables, name=spec) for spec, tables in references.items()]
        dropped = _dropped(corpus, evaluation, config)
        facts = {"tables": 0, "dropped": [list(image) for image in dropped]}
        return facts, ("embeddings",)

    return build.stage("dedup", inputs, run)


def _dropped(corpus, references, config):
    """Copies of evaluation images first, then those of each other among the rest."""
    find = functools.partial(find_duplicates, corpus)
    inside, against = config.max_distance, config.max_distance_against
    if config.mode == "embedding":
        inside, against = config.min_cosine, config.min_cosine_against
        clusters = {"clusters": config.clusters, "nearest": config.nearest_clusters}
        find = functools.partial(find, mode="embedding", **clusters)
    if not config.inside_corpus or inside == against:
        return find(references, threshold=against, inside=config.inside_corpus)
    near = find(references, threshold=against, inside=False)
    near = [image for image in near if image.reason == NEAR_EVALUATION]
    return find(gone=near, threshold=inside)


def _signed_images(build, tables, *, folder, name=""):
    """Reads what finding copies needs of stored images."""
    config = build.config.duplicates
    keys, pixel_keys, hashes, pixels = [], [], [], []
    for group, stored in zip(tables.paths("group"), tables.paths(), strict=True):
        sizes = read_rows(group, ["width", "height"])
        for row, size in zip(read_rows(stored, _STORED), sizes, strict=True):
            if not row["fault"]:
                keys.append(row["image_key"])
                pixel_keys.append(row["pixel_key"])
                hashes.append(row["perceptual_hash"])
                pixels.append(size["width"] * size["height"])
    if config.mode == "embedding":
        signatures = _embedded(build, tables, folder, len(keys))
    else:
        signatures = hash_array(hashes)
        if config.mode == "pixels":
            signatures = np.zeros_like(signatures)  # Near to none.
    return ImageSet(keys, signatures, np.array(pixels), pixel_keys, name)


def _embedded(build, tables, folder, count):
    """Embeds stored images table by table; the embeddings of all, (count, d)."""
    name = absolute(build.config.duplicates.encoder)
    fingerprint = worker_model(name, keras_or_auto(name)).image_fingerprint
    about = {"encoder": name, "fingerprint": fingerprint}
    path = folder.path / "embeddings" / f"{tables.folder.key}.npy"
    tasks = [
        {**about, "table": table, "to": str(path.with_suffix(f".{number}.npy"))}
        for number, table in enumerate(tables.paths())
    ]
    build.run(embed_images, tasks, folder, here=True)
    parts = (np.load(task["to"]) for task in tasks)
    rows = itertools.chain.from_iterable(parts)
    return write_embeddings(path, rows, np.stack, count)


def embed_images(task: dict) -> None:
    """Embeds the images of a table: a task of `run_tasks`."""
    model = worker_model(task["encoder"], keras_or_auto(task["encoder"]))
    name = "duplicates.encoder"
    check_same(task["encoder"], model.image_fingerprint, task["fingerprint"], name)
    count = sum(not row["fault"] for row in read_rows(task["table"], ["fault"]))
    rows = read_rows(task["table"], ["fault", "jpeg"])
    jpegs = (row["jpeg"] for row in rows if not row["fault"])
    write_embeddings(task["to"], jpegs, model.encode_images, count)


def learn_words(build: _Build, images: Tables, copies: Tables) -> Tables:
    """Learns the vocabulary of what stays: `OUT/vocabulary.txt`."""
    config = build.config.vocabulary

    def run(folder):
        say("corpus vocab: of the kept captions")
        kept = _kept(kept_captions, images, copies)
        tokens = learn_vocabulary(
            (caption for caption, _ in kept()),
            config.size,
            min_frequency=config.min_frequency,
            normalization=config.normalization,
        )
        save_vocabulary(tokens, folder.path / VOCABULARY)
        facts = {
            "tables": 0,
            "tokens": len(tokens),
            "normalization": config.normalization,
            "languages": _coverage(tokens, config.normalization, kept()),
        }
        return facts, ()

    inputs = [images.folder.key, copies.folder.key, as_dict(config)]
    made = build.stage("vocab", inputs, run)
    with atomic_write(build.out / VOCABULARY, "wb") as file:
        file.write((made.folder.path / VOCABULARY).read_bytes())
    return made


def _coverage(tokens, normalization, kept):
    """Measures the vocabulary on each language, by the first captions of each."""
    samples, counts = {}, collections.Counter()
    for caption, language in kept:
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


def write_shards(build: _Build, images: Tables, copies: Tables) -> Tables:
    """Writes the shards that training reads: `OUT/web_pairs/1.0.0`."""
    # It imports TensorFlow, which no other stage needs.
    from align_keras.datasets.web_pairs import SHARDS, place_shards, write_web_pairs

    config = build.config.shards

    def run(folder):
        say("corpus shard: writing the shards")
        kept = _kept(kept_images, images, copies)
        origin = {"config": _origin(build.config)}
        counts = write_web_pairs(folder.path, kept, config, notes=origin)
        return {"tables": 0, **counts}, ()

    inputs = [images.folder.key, copies.folder.key, as_dict(config)]
    made = build.stage("shard", inputs, run)
    place_shards(made.folder.path / SHARDS, build.out / SHARDS)
    return made


def _check_kept(images, copies):
    """Raises InputError if no image stays, with the counts of all that left."""
    image_count = images.facts["pictures"]
    reasons = collections.Counter(images.facts["faults"])
    reasons.update(reason for _, reason, *_ in copies.facts["dropped"])
    if image_count > reasons.total():
        return
    counts = [f"{count:,} {reason}" for reason, count in reasons.most_common()]
    if images.facts["remote"]:
        counts.append(f"{images.facts['remote']:,} pairs of images that aren't here")
    counts = ", ".join(counts) or "no pair passes the filters"
    raise InputError(
        f"the corpus is empty, none of {image_count:,} images stays ({counts}). "
        "Give other sources, or change the thresholds of `filter` and `duplicates`."
    )


def _kept(read, images, copies):
    dropped = copies.facts["dropped"]
    return functools.partial(read, images.paths("group"), images.paths(), dropped)


def _origin(config):
    """What the shards depend on, in whatever order it was given."""
    origin = as_dict(config)
    del origin["vocabulary"]
    origin["sources"] = sorted(origin["sources"])
    origin["caption_rules"] = sorted(origin["caption_rules"])
    origin["duplicates"]["against"] = sorted(origin["duplicates"]["against"])
    return origin


def _table(folder, name, number):
    return str(folder.path / f"{name}-{number:05d}.parquet")


_STORED_AND_COPIES = ("pictures", "dedup")
# In their order, each with those whose tables it is handed.
STAGES: dict[str, tuple[Callable | None, tuple[str, ...]]] = {
    "extract": (extract, ()),
    "filter": (filter_pairs, ("extract",)),
    "pictures": (gather_images, ("filter",)),
    "dedup": (find_copies, ("pictures",)),
    "vocab": (learn_words, _STORED_AND_COPIES),
    "shard": (write_shards, _STORED_AND_COPIES),
    "report": (None, ("vocab", "shard")),
}
