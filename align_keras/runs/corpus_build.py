"""Builds of a corpus, from the sources to the vocabulary, the shards and the report."""

import collections
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator

from align_keras.config import CorpusConfig, write_config_file
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.parquet_tables import read_rows
from align_keras.corpus.shard_folder import (
    INDEX,
    SHARDS,
    has_all_shards,
    place_shards,
)
from align_keras.corpus.sources.location import is_remote
from align_keras.corpus.sources.pair import SourcePair
from align_keras.corpus.sources.source import (
    SHARD_KINDS,
    open_source,
    read_part,
)
from align_keras.corpus.sources.uid_subset import write_uid_subset
from align_keras.embedders.locations import keras_or_auto
from align_keras.reports.corpus_report import write_corpus_report
from align_keras.runs.corpus_copies import KeptPairs, find_copies
from align_keras.runs.corpus_stages import (
    CorpusBuild,
    CorpusStage,
    apply_filters,
    extract_sources,
    gather_images,
)
from align_keras.text.vocabulary import Coverage, learn_vocabulary, save_vocabulary
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError, check_tensorflow
from align_keras.utils.files import atomic_write, locked, refuse_url
from align_keras.utils.progress import say
from align_keras.utils.tasks import LOCAL, is_cluster

STAGE_NAMES = ("extract", "filter", "images", "dedup", "vocab", "shard", "report")
CORPUS_VOCABULARY = "vocabulary.txt"
_CAPTIONS_PER_LANGUAGE = 20_000
_LANGUAGES = 200


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus and its stages.

    Attributes:
        out: absolute path of the corpus's folder.
        config: configuration.
        stages: the stages that were built, by name.

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
    stages: dict[str, CorpusStage]

    @property
    def shards(self) -> pathlib.Path:
        """Folder of the shards, for training and `tfds.builder_from_directory`."""
        return self.out / SHARDS

    @property
    def vocabulary(self) -> pathlib.Path:
        return self.out / CORPUS_VOCABULARY

    def remote_pairs(self) -> Iterator[SourcePair]:
        """Yields the filtered pairs whose images must still be downloaded."""
        for table in self.stages["filter"].tables():
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
    out.mkdir(parents=True, exist_ok=True)
    _check(config)
    check_choice("stage", stage, STAGE_NAMES)
    if stage in ("shard", "report") and not (out / SHARDS / INDEX).exists():
        check_tensorflow("Writing the shards of a corpus")
    is_cluster(engine)  # This call raises InputError for an unknown engine.
    build = CorpusBuild(out, config, workers, engine)
    stages: dict[str, CorpusStage] = {}
    corpus = Corpus(out, config, stages)
    with locked(
        out / "corpus.yaml",
        lambda: say(f"corpus: waiting for another align-keras corpus on {out}"),
    ):
        write_config_file(config, out / "corpus.yaml")
        honor_opt_out = config.opt_out == "honor"
        sources = [
            open_source(spec, honor_opt_out=honor_opt_out)
            for spec in sorted(config.sources)
        ]
        caption_rules = sorted(set(config.caption_rules))
        stages["extract"] = extract_sources(build, sources, caption_rules)
        if stage == "extract":
            return corpus
        stages["filter"] = apply_filters(build, stages["extract"])
        if stage == "filter":
            return corpus
        stages["images"] = gather_images(build, stages["filter"])
        if stage == "images":
            return corpus
        stages["dedup"] = find_copies(build, stages["images"])
        if stage == "dedup":
            return corpus
        pairs = KeptPairs(stages["images"], stages["dedup"])
        pairs.check_not_empty()
        if stage in ("vocab", "report"):
            stages["vocab"] = learn_corpus_vocabulary(build, pairs)
        if stage in ("shard", "report"):
            stages["shard"] = write_shards(build, pairs)
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
        keras_or_auto(str(config.duplicates.encoder))


def learn_corpus_vocabulary(build: CorpusBuild, pairs: KeptPairs) -> CorpusStage:
    """Learns the vocabulary of the kept captions and writes `OUT/vocabulary.txt`."""
    config = build.config.vocabulary

    def compute(stage: CorpusStage) -> tuple[dict, tuple[str, ...]]:
        say("corpus vocab: learning the vocabulary from the remaining captions")
        tokens = learn_vocabulary(
            (caption for caption, _ in pairs.read_captions()),
            config.size,
            min_frequency=config.min_frequency,
            normalization=config.normalization,
        )
        save_vocabulary(tokens, stage.path / CORPUS_VOCABULARY)
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
    inputs = [pairs.images.key, pairs.copies.key, options]
    stage = build.stage("vocab", inputs, compute)
    with atomic_write(build.out / CORPUS_VOCABULARY, "wb") as file:
        file.write((stage.path / CORPUS_VOCABULARY).read_bytes())
    return stage


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


def write_shards(build: CorpusBuild, pairs: KeptPairs) -> CorpusStage:
    """Writes the shards that training reads, `OUT/web_pairs/1.0.0`."""
    config = build.config.shards

    def compute(stage: CorpusStage) -> tuple[dict, tuple[str, ...]]:
        # Shards that exist may belong to other options.
        check_tensorflow("Writing the shards of a corpus")
        # This import is not at the top, because it loads TensorFlow and no other stage
        # needs it.
        from align_keras.datasets.web_pairs import write_web_pairs

        say("corpus shard: writing the shards")
        notes = {"config": _order_free_config(build.config)}
        counts = write_web_pairs(stage.path, pairs.read_images, config, notes=notes)
        return {"tables": 0, **counts}, ()

    options = config.model_dump(mode="json")
    inputs = [pairs.images.key, pairs.copies.key, options]
    stage = build.stage(
        "shard",
        inputs,
        compute,
        # The final folder has hard links to the shards, so damage can affect both.
        is_intact=lambda stage: has_all_shards(stage.path / SHARDS),
    )
    place_shards(stage.path / SHARDS, build.out / SHARDS)
    return stage


def _order_free_config(config: CorpusConfig) -> dict:
    """Returns the options that the shards depend on, with sorted lists."""
    origin = config.model_dump(mode="json")
    del origin["vocabulary"]
    del origin["score"]
    origin["sources"] = sorted(origin["sources"])
    origin["caption_rules"] = sorted(origin["caption_rules"])
    origin["duplicates"]["against"] = sorted(origin["duplicates"]["against"])
    return origin


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
        Number of written uids.

    Raises:
        InputError: if no record of the corpus has a uid.

    Example:

    ```python
    config = align_keras.config.load_corpus_config(["corpus/corpus.yaml"])
    corpus = align_keras.build_corpus("corpus", config, "dedup")
    write_corpus_subset(corpus, "subset.npy")  # such as 19
    ```
    """
    pairs = KeptPairs(corpus.stages["images"], corpus.stages["dedup"])
    keys = pairs.read_keys()
    locations = {
        row["image"]
        for table in corpus.stages["filter"].tables()
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
