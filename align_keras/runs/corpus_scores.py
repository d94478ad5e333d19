"""Stages that compute the scores of the pairs in a corpus.

Each group of columns has its own stage, so that a new column doesn't compute the others
again.
"""

import dataclasses
import functools
import importlib.util
import itertools
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.config import CorpusConfig, write_config_file
from align_keras.corpus.filters.languages import detect_languages, detector_version
from align_keras.corpus.image_tables import load_hook
from align_keras.corpus.parquet_tables import arrow, open_parquet, table_writer
from align_keras.corpus.scores.score_hooks import call_score_hook
from align_keras.corpus.scores.score_table import (
    SCORES,
    ScoreTable,
    uniform_draw,
    with_metadata,
)
from align_keras.corpus.shard_folder import (
    ShardImage,
    index_digest,
    read_shard,
    shard_counts,
)
from align_keras.embedders.loading import worker_model
from align_keras.embedders.locations import locate_model
from align_keras.runs.corpus_build import build_corpus
from align_keras.runs.corpus_stages import CorpusBuild, CorpusStage
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path, locked
from align_keras.utils.progress import say
from align_keras.utils.tasks import LOCAL, check_same

# Number of images or pairs that a model or a hook gets at once.
_BATCH_SIZE = 64


def score_corpus(
    out: str | os.PathLike,
    config: CorpusConfig,
    *,
    workers: int | None = None,
    engine: str = LOCAL,
) -> ScoreTable:
    """Scores the pairs of a corpus, as `align-keras corpus score`.

    The corpus is built first if its shards are not finished. The scores are written to
    `OUT/scores.parquet`, with one row for each caption of each image, in the order of
    the shards. A second call computes only columns whose options or shards changed.

    The columns are:

    - `shard`, `id`, `caption_number`, `caption`: file of the image, its id, and its
      caption with its number within the image.
    - `language`: language that the page declares, or "".
    - `detected_language`: language that py3langid detects. It is left out if py3langid
      isn't installed.
    - `similarity`: cosine of the image and the caption by `score.model`.
    - `draw`: random number in [0, 1) of the pair, for random samples.
    - a column for each of `score.hooks`.

    Args:
        out: folder of the corpus.
        config: options of the corpus and of its scores.
        workers: number of processes. Defaults to the number of cores.
        engine: cluster that runs the tasks, one of `align_keras.utils.tasks.ENGINES`.

    Raises:
        InputError: if the corpus can't be built, the model can't be opened, or a hook
            fails.

    References:
        Gadre et al. 2023 (DataComp), arXiv:2304.14108, for filters by scores.

    Example:

    ```python
    config = align_keras.config.load_corpus_config(
        ["corpus/corpus.yaml"], {"score.model": "align_small_en"}
    )
    table = align_keras.score_corpus("corpus", config)
    table.columns["similarity"]  # 'number'
    ```
    """
    out = pathlib.Path(out)
    score = config.score
    hooks = dict(sorted((score.hooks or {}).items()))
    # Mistakes in the options are reported before the corpus is built.
    for name, function in hooks.items():
        load_hook(function, f"score.hooks.{name}")
    model = None if score.model is None else locate_model(score.model).name
    if model is not None:
        worker_model(model)
    corpus = build_corpus(out, config, "shard", workers=workers, engine=engine)
    build = CorpusBuild(corpus.out, config, workers, engine)
    with locked(
        corpus.out / "corpus.yaml",
        lambda: say(f"corpus: waiting for another align-keras corpus on {corpus.out}"),
    ):
        write_config_file(config, corpus.out / "corpus.yaml")
        stages = _ScoreStages(build, corpus.shards)
        texts = stages.read_texts()
        columns = []
        if model is not None:
            columns.append(stages.embed_pairs(model))
        columns += [stages.call_hook(name, hooks[name]) for name in hooks]
        return stages.join(texts, columns)


@dataclasses.dataclass(frozen=True)
class _ScoreStages:
    """Stages of the scores of a corpus.

    The tables of a stage have one row for each caption, and one table for each shard.

    Attributes:
        folder: folder of the shards.
    """

    build: CorpusBuild
    folder: pathlib.Path

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Number of images of each shard by file name."""
        return shard_counts(self.folder)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the list of the shards with their checksums."""
        return index_digest(self.folder)

    def shard_tasks(self, stage: CorpusStage, **options: Any) -> list[dict]:
        """Returns a task with the path of a shard and of its table for each shard."""
        return [
            {
                "shard": str(self.folder / name),
                "images": count,
                "table": stage.table("part", number),
                **options,
            }
            for number, (name, count) in enumerate(self.counts.items())
        ]

    def read_texts(self) -> CorpusStage:
        """Reads the captions and their languages."""
        detects = importlib.util.find_spec("py3langid") is not None

        def compute(stage: CorpusStage) -> tuple[dict, tuple[str, ...]]:
            say(f"corpus score: captions of {sum(self.counts.values()):,} images")
            tasks = self.shard_tasks(stage, detects=detects)
            self.build.run(read_shard_texts, tasks, stage)
            return {"tables": len(tasks)}, ()

        inputs = [self.digest, detector_version() if detects else None]
        return self.build.stage("score_texts", inputs, compute)

    def embed_pairs(self, model: str) -> CorpusStage:
        """Embeds the images and captions, and computes their cosines."""
        embedder = worker_model(model)

        def compute(stage: CorpusStage) -> tuple[dict, tuple[str, ...]]:
            say(
                f"corpus score: embedding {sum(self.counts.values()):,} images with "
                f"{embedder.name}"
            )
            tasks = self.shard_tasks(
                stage, model=model, fingerprint=embedder.fingerprint
            )
            self.build.run(embed_shard_pairs, tasks, stage, in_process=True)
            return {"tables": len(tasks)}, ()

        inputs = [self.digest, embedder.fingerprint]
        return self.build.stage("score_similarity", inputs, compute)

    def call_hook(self, name: str, function: str) -> CorpusStage:
        """Computes a column by a function of the user."""

        def compute(stage: CorpusStage) -> tuple[dict, tuple[str, ...]]:
            say(f"corpus score: {name} by {function}")
            tasks = self.shard_tasks(stage, name=name, function=function)
            self.build.run(score_shard_by_hook, tasks, stage)
            return {"tables": len(tasks)}, ()

        inputs = [self.digest, name, function]
        return self.build.stage("score_hook", inputs, compute)

    def join(self, texts: CorpusStage, columns: Sequence[CorpusStage]) -> ScoreTable:
        """Joins the columns of all stages to `OUT/scores.parquet`."""
        score = self.build.config.score
        path = self.build.out / SCORES

        def compute(stage: CorpusStage) -> tuple[dict, tuple[str, ...]]:
            metadata = {
                "shards": self.digest,
                "key": stage.key,
                "model": score.model,
            }
            paths = zip(
                texts.tables(), *(column.tables() for column in columns), strict=True
            )
            tables = map(_join_columns, paths)
            first = next(tables)
            schema = with_metadata(first.schema, metadata)
            with table_writer(stage.path / SCORES, schema, batches=True) as append:
                for table in itertools.chain([first], tables):
                    append(table.cast(schema).to_batches())
            return {"tables": 0}, ()

        inputs = [
            self.digest,
            texts.key,
            [column.key for column in columns],
        ]
        stage = self.build.stage("score", inputs, compute)
        if not _is_placed(path, stage.key):
            with atomic_path(path) as temporary:
                shutil.copyfile(stage.path / SCORES, temporary)
        return ScoreTable(path)


def _is_placed(path: pathlib.Path, key: str) -> bool:
    """Returns True if a file of scores exists and is that of a stage."""
    try:
        return ScoreTable(path).metadata["key"] == key
    except (InputError, OSError):  # The file is missing or damaged.
        return False


def _write_columns(path: str, table: Any) -> None:
    with table_writer(path, table.schema, batches=True) as append:
        append(table.to_batches())


def _join_columns(paths: Sequence[str]) -> Any:
    """Returns the columns of all tables of a shard, and the column `draw`."""
    pa = arrow()
    texts, *column_tables = [open_parquet(os.fspath(path)).read() for path in paths]
    draws = [
        uniform_draw(id, caption)
        for id, caption in zip(
            texts.column("id").to_pylist(),
            texts.column("caption").to_pylist(),
            strict=True,
        )
    ]
    joined = texts
    for column_table in column_tables:
        for name in column_table.column_names:
            joined = joined.append_column(name, column_table.column(name))
    return joined.append_column("draw", pa.array(draws, pa.float64()))


def read_shard_texts(task: dict) -> None:
    """Writes the captions of a shard and their languages, as a task of `run_tasks`."""
    pa = arrow()
    columns: dict[str, list] = {
        "shard": [],
        "id": [],
        "caption_number": [],
        "caption": [],
        "language": [],
    }
    name = os.path.basename(task["shard"])
    for image in read_shard(task["shard"], task["images"]):
        count = len(image.captions)
        columns["shard"] += [name] * count
        columns["id"] += [image.id] * count
        columns["caption_number"] += range(count)
        columns["caption"] += image.captions
        columns["language"] += image.languages
    kinds = dict.fromkeys(columns, pa.string()) | {"caption_number": pa.int32()}
    if task["detects"]:
        captions = columns["caption"]
        columns["detected_language"] = detect_languages(
            captions, [""] * len(captions), "always"
        )
        kinds["detected_language"] = pa.string()
    _write_columns(task["table"], pa.table(columns, pa.schema(kinds)))


def embed_shard_pairs(task: dict) -> None:
    """Writes the cosines of the pairs of a shard, as a task of `run_tasks`."""
    model = worker_model(task["model"])
    check_same(task["model"], model.fingerprint, task["fingerprint"], "score.model")
    cosines = [np.zeros(0, np.float32)]
    for images in _batches(read_shard(task["shard"], task["images"])):
        embeddings = model.encode_images([image.image for image in images])
        texts = model.encode_texts(list(_captions(images)))
        rows = np.repeat(
            np.arange(len(images)), [len(image.captions) for image in images]
        )
        cosines.append(np.einsum("nd,nd->n", embeddings[rows], texts))
    pa = arrow()
    _write_columns(task["table"], pa.table({"similarity": np.concatenate(cosines)}))


def score_shard_by_hook(task: dict) -> None:
    """Writes the column of a hook for a shard, as a task of `run_tasks`."""
    name = task["name"]
    function = load_hook(task["function"], f"score.hooks.{name}")
    assert function is not None  # The name of a hook is never None.
    scores: list[float] = []
    for images in _batches(read_shard(task["shard"], task["images"])):
        encoded = [image.image for image in images for _ in image.captions]
        scores += call_score_hook(name, function, encoded, list(_captions(images)))
    pa = arrow()
    _write_columns(task["table"], pa.table({name: pa.array(scores, pa.float64())}))


def _batches(images: Iterator[ShardImage]) -> Iterator[list[ShardImage]]:
    while batch := list(itertools.islice(images, _BATCH_SIZE)):
        yield batch


def _captions(images: Sequence[ShardImage]) -> Iterator[str]:
    return itertools.chain.from_iterable(image.captions for image in images)
