"""One stage of `align-keras corpus`, and what it prints."""

from align_keras.cli.corpus_dedup import dedup
from align_keras.cli.corpus_report import funnel, write_report
from align_keras.cli.corpus_shards import SHARDS, VOCABULARY, shards, vocabulary
from align_keras.config.corpus import VocabularyConfig
from align_keras.corpus.parquet_pairs import read_rows
from align_keras.corpus.sources import SourcePair, write_url_list
from align_keras.utils.progress import say


def run_stage(build, stage, to=None):
    """Runs a stage with those before it, and prints the funnel so far.

    Args:
        build: `CorpusBuild`.
        stage: str, one of `corpus.STAGES`.
        to: str, the list that `urls` writes.
    """
    if stage == "urls":
        count = write_url_list(_pairs(build.filter()), to)
        print(f"wrote {count:,} remote pictures to {to}")
        return
    everything = stage in ("build", "report")
    made = {"extract": build.extract()}
    if stage != "extract":
        made["filter"] = build.filter()
    if stage not in ("extract", "filter"):
        made["pictures"], made["dedup"] = build.pictures(), dedup(build)
    if stage in ("vocab", "build", "report"):
        made["vocab"] = vocabulary(build)
    if stage in ("shard", "build", "report"):
        made["shard"] = shards(build)
    for what, count, _ in funnel(made):
        print(f"{count:>12,}  {what}")
    if everything:
        write_report(build, made)
        text = "task.model.text_encoder"
        overrides = [
            f"task.train_data.corpus={build.out / SHARDS}",
            f"{text}.vocabulary={build.out / VOCABULARY}",
        ]
        normalization = build.config.vocabulary.normalization
        if normalization != VocabularyConfig.normalization:
            overrides.append(f"{text}.normalization={normalization}")
        overrides = ",".join(overrides)
        say(f"open {build.out / 'report.html'}; train on it:")
        say(f"  align-keras train --experiment E --params_override {overrides}")


def _pairs(tables):
    for table in tables.paths():
        for row in read_rows(table):
            yield SourcePair(**{name: row[name] for name in SourcePair._fields})
