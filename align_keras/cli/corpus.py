"""`align-keras corpus`: from web pages and archives to shards that train a model."""

import argparse
import pathlib
from typing import TYPE_CHECKING

from align_keras.cli.common import AT_LEAST_ONE
from align_keras.utils.errors import InputError
from align_keras.utils.tasks import ENGINE_HELP, LOCAL

if TYPE_CHECKING:
    from align_keras.config import CorpusConfig
    from align_keras.runs.corpus_build import Corpus

STAGE_HELP = {
    "extract": "pairs out of the sources",
    "filter": "the paper's filters of images and texts",
    "dedup": "copies of evaluation images and, if asked for, of each other",
    "vocab": "the WordPiece vocabulary",
    "shard": "shards that tfds.builder_from_directory and training open",
    "report": "report.html: what was kept and dropped, and why",
    "build": "all of these",
    "urls": "the list of remote images, for img2dataset",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "stages, each with those before it:\n" + "\n".join(
        f"  {name:<9}{what}" for name, what in STAGE_HELP.items()
    )
    parser.add_argument(
        "stage", choices=tuple(STAGE_HELP), metavar="STAGE", help="see below"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the corpus's folder"
    )
    parser.add_argument(
        "--source",
        action="append",
        metavar="KIND:PATH",
        help="html, warc, wat, webdataset, parquet, tfrecord, coco, karpathy, table, "
        "folder or tfds; several times for several; by default those of the last call",
    )
    parser.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="YAML with thresholds and forms; by default that of the last call, "
        "which is DIR/corpus.yaml",
    )
    parser.add_argument(
        "--params_override",
        action="append",
        default=[],
        metavar="KEY=VALUE,…",
        help="such as filter.max_unigrams=30,duplicates.mode=embedding",
    )
    parser.add_argument(
        "--against",
        action="append",
        metavar="KIND:PATH",
        help="a source of evaluation images, whose copies leave the corpus",
    )
    parser.add_argument(
        "--workers",
        type=AT_LEAST_ONE,
        metavar="N",
        help="processes; as many as the machine has cores by default",
    )
    parser.add_argument("--engine", default=LOCAL, metavar="E", help=ENGINE_HELP)
    parser.add_argument(
        "--to",
        metavar="FILE",
        help="of urls: the list to write, .parquet, .csv or .tsv",
    )


def run(arguments: argparse.Namespace) -> int:
    stage = arguments.stage
    if (stage == "urls") != (arguments.to is not None):
        raise InputError(
            "--to must name the list of the stage urls, and be left out elsewhere, "
            f"received {arguments.to!r} for {stage}; write --to urls.parquet."
        )
    from align_keras.reports.corpus_report import corpus_funnel
    from align_keras.runs.corpus_build import build_corpus

    out = pathlib.Path(arguments.out)
    last = {"build": "report", "urls": "filter"}.get(stage, stage)
    corpus = build_corpus(
        out,
        _corpus_config(arguments, out),
        last,
        workers=arguments.workers,
        engine=arguments.engine,
    )
    if stage == "urls":
        from align_keras.corpus.sources import write_url_list

        count = write_url_list(corpus.remote_pairs(), arguments.to)
        print(f"wrote {count:,} remote images to {arguments.to}")
        return 0
    for step, count, _ in corpus_funnel(corpus):
        print(f"{count:>12,}  {step}")
    if last == "report":
        _print_train_command(corpus)
    return 0


def _print_train_command(corpus: "Corpus") -> None:
    """Prints the command that trains on the shards of a corpus."""
    from align_keras.config.corpus_config import VocabularyConfig
    from align_keras.utils.progress import say

    text_encoder = "task.model.text_encoder"
    overrides = [
        f"task.train_data.corpus={corpus.shards}",
        f"{text_encoder}.vocabulary={corpus.vocabulary}",
    ]
    normalization = corpus.config.vocabulary.normalization
    if normalization != VocabularyConfig.normalization:
        overrides.append(f"{text_encoder}.normalization={normalization}")
    say(f"open {corpus.out / 'report.html'}; train on it:")
    say(f"  align-keras train --experiment E --params_override {','.join(overrides)}")


def _corpus_config(arguments: argparse.Namespace, out: pathlib.Path) -> "CorpusConfig":
    """Returns the configuration of the previous call with the options of this one."""
    from align_keras.config import load_corpus_config

    saved = out / "corpus.yaml"
    files = arguments.config or ([saved] if saved.exists() else [])
    options = {"sources": arguments.source, "duplicates.against": arguments.against}
    overrides = {key: value for key, value in options.items() if value is not None}
    return load_corpus_config(files, [*arguments.params_override, overrides])
