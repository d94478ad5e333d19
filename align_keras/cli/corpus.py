"""`align-keras corpus`: builds a training corpus from web pages and archives."""

import argparse
import collections
import pathlib
from typing import TYPE_CHECKING, Any

from align_keras.cli.common import AT_LEAST_ONE, RawHelpFormatter, name_addresses
from align_keras.embedders.locations import MODEL_HELP
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say
from align_keras.utils.tasks import ENGINE_HELP, LOCAL

if TYPE_CHECKING:
    from align_keras.config import CorpusConfig
    from align_keras.corpus.scores import ScoreTable
    from align_keras.corpus.sources.download_results import DownloadResults
    from align_keras.runs.corpus_build import Corpus

STAGE_HELP = {
    "extract": "read pairs of images and captions from the sources",
    "filter": "apply the image and text filters of the paper",
    "dedup": "drop copies of evaluation images and, if enabled, other duplicates",
    "vocab": "learn the WordPiece vocabulary",
    "shard": "write the shards for training and tfds.builder_from_directory",
    "report": "write report.html with the numbers of kept and dropped pairs",
    "build": "run all stages above",
    "urls": "write the addresses of the remote images for img2dataset",
    "subset": "write the uids of the records in the corpus as a subset of DataComp",
    "score": "run the stages up to shard and write scores.parquet with scores of all "
    "pairs",
    "select": "print the number of pairs that a condition on the scores keeps",
}
# Options that are only for some stages.
_STAGES_OF_OPTION = {
    "to": ("urls", "subset"),
    "downloaded": ("urls",),
    "model": ("score",),
    "where": ("select",),
    "examples": ("select",),
}
# Stages that need an option.
_NEEDED_OPTIONS = {"urls": "to", "subset": "to", "select": "where"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = RawHelpFormatter
    parser.epilog = (
        "stages (each stage first runs all unfinished stages above it):\n"
    ) + "\n".join(f"  {name:<9}{summary}" for name, summary in STAGE_HELP.items())
    parser.add_argument(
        "stage",
        choices=tuple(STAGE_HELP),
        metavar="STAGE",
        help="one of the stages below",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder of the corpus"
    )
    parser.add_argument(
        "--source",
        action="append",
        metavar="KIND:PATH",
        help="source of pairs. KIND is html, warc, wat, webdataset, parquet, tfrecord, "
        "coco, karpathy, table, folder or tfds. Repeat the option for several sources "
        "(default: the sources of the last call).",
    )
    parser.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="YAML file with thresholds and other options (default: DIR/corpus.yaml, "
        "which the last call wrote)",
    )
    parser.add_argument(
        "--params_override",
        action="append",
        default=[],
        metavar="KEY=VALUE,…",
        help="values that override the YAML file, such as "
        "filter.max_unigrams=30,duplicates.mode=embedding",
    )
    parser.add_argument(
        "--against",
        action="append",
        metavar="KIND:PATH",
        help="source of evaluation images, whose copies are dropped from the corpus",
    )
    parser.add_argument(
        "--workers",
        type=AT_LEAST_ONE,
        metavar="N",
        help="number of processes (default: the number of cores)",
    )
    parser.add_argument("--engine", default=LOCAL, metavar="E", help=ENGINE_HELP)
    parser.add_argument(
        "--to",
        metavar="FILE",
        help="file that the stage urls (.parquet, .csv or .tsv) or subset (.npy) "
        "writes",
    )
    parser.add_argument(
        "--downloaded",
        action="append",
        metavar="SHARDS",
        help="folder of img2dataset's shards. The stage urls then writes only the "
        "images that are still missing: those that were not tried, and those whose "
        "download failed for a reason that may pass (HTTP 429 and 5xx, timeouts, "
        "connection errors). Repeat the option for several folders.",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help=f"for the stage score, {MODEL_HELP} (default: score.model)",
    )
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        help='condition of the stage select, such as "similarity > 0.2 and '
        "detected_language = 'en'\"",
    )
    parser.add_argument(
        "--examples",
        type=AT_LEAST_ONE,
        metavar="N",
        help="number of kept and of dropped pairs that the stage select prints "
        "(default: 3)",
    )


def run(arguments: argparse.Namespace) -> int:
    _check_options(arguments)
    stage = arguments.stage
    out = pathlib.Path(arguments.out)
    if stage == "select":
        _print_selection(out, arguments.where, arguments.examples or 3)
        return 0
    if stage == "score":
        from align_keras.runs.corpus_scores import score_corpus

        table = score_corpus(
            out,
            _corpus_config(arguments, out),
            workers=arguments.workers,
            engine=arguments.engine,
        )
        _print_scores(table)
        return 0
    from align_keras.reports.corpus_report import corpus_funnel
    from align_keras.runs.corpus_build import build_corpus, write_corpus_subset

    # The results are read first, because a build can take days.
    results = _read_results(arguments)
    last_stages = {"build": "report", "urls": "filter", "subset": "dedup"}
    last_stage = last_stages.get(stage, stage)
    corpus = build_corpus(
        out,
        _corpus_config(arguments, out),
        last_stage,
        workers=arguments.workers,
        engine=arguments.engine,
    )
    if stage == "urls":
        _write_addresses(corpus, arguments, results)
        return 0
    if stage == "subset":
        count = write_corpus_subset(corpus, arguments.to)
        file = name_addresses(arguments.to, arguments)
        print(f"wrote the uids of {count:,} records to {file}")
        return 0
    for step, count, _ in corpus_funnel(corpus):
        print(f"{count:>12,}  {step}")
    if last_stage == "report":
        _print_train_command(corpus)
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises InputError if an option and the stage do not belong together."""
    stage = arguments.stage
    for name, stages in _STAGES_OF_OPTION.items():
        if getattr(arguments, name) is not None and stage not in stages:
            raise InputError(
                f"`{name}` must be left out for the stage {stage}. Received: "
                f"{name}={getattr(arguments, name)!r}. Use it for the stage "
                f"{' or '.join(stages)}."
            )
    needed = _NEEDED_OPTIONS.get(stage)
    if needed is not None and getattr(arguments, needed) is None:
        raise InputError(
            f"`{needed}` must be set for the stage {stage}. Received: {needed}=None."
        )


def _print_scores(table: "ScoreTable") -> None:
    """Prints the quantiles of each column of scores."""
    print("".join(f"{title:>12}" for title in ("10%", "50%", "90%")))
    for name, values in table.quantiles((0.1, 0.5, 0.9)).items():
        print("".join(f"{value:>12.4g}" for value in values) + f"  {name}")
    say(f"wrote {table.path}. Select pairs with `align-keras corpus select --where`.")


def _print_selection(out: pathlib.Path, where: str, num_examples: int) -> None:
    """Prints the number of pairs that a condition keeps, and some examples."""
    from align_keras.corpus.scores import ScoreTable
    from align_keras.corpus.scores.score_table import SCORES
    from align_keras.corpus.shard_folder import SHARDS

    table = ScoreTable(out / SCORES)
    table.check_shards(out / SHARDS)
    selection = table.select(where)
    for unit, count, total in (
        ("images", selection.kept_images, selection.num_images),
        ("captions", selection.kept_captions, selection.num_captions),
    ):
        print(f"{count:>12,}  of {total:,} {unit}")
    titles = ("kept", "dropped")
    for title, rows in zip(titles, table.examples(where, num_examples), strict=True):
        if rows:
            print(f"{title}:")
        for row in rows:
            print(f"  {_describe(row)}")


def _describe(row: dict[str, Any]) -> str:
    """Returns a line with the columns of a pair. The caption is the last one."""
    id = row.pop("id")
    caption = row.pop("caption")
    values = [f"{name}={_short(value)}" for name, value in row.items()]
    line = "  ".join([*values, id, caption])
    # A caption from the web may contain control characters.
    return "".join(letter if letter.isprintable() else " " for letter in line)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read_results(arguments: argparse.Namespace) -> "DownloadResults | None":
    """Reads the results of downloads, and reports shards without complete results."""
    if not arguments.downloaded:
        return None
    from align_keras.corpus.sources.download_results import read_download_results

    results = read_download_results(arguments.downloaded)
    for shard in results.incomplete:
        shard = name_addresses(shard, arguments)
        say(f"corpus urls: {shard} is incomplete. Its images count as not tried.")
    return results


def _write_addresses(
    corpus: "Corpus",
    arguments: argparse.Namespace,
    results: "DownloadResults | None",
) -> None:
    """Writes the list of remote images, or of the images that are still missing."""
    from align_keras.corpus.sources.download_results import missing_pairs
    from align_keras.corpus.sources.url_list import write_url_list

    pairs = corpus.remote_pairs()
    missing: collections.Counter[str] = collections.Counter()
    skipped: collections.Counter[str] = collections.Counter()
    if results is not None:
        pairs = missing_pairs(pairs, results, missing, skipped)
    count = write_url_list(pairs, arguments.to)
    file = name_addresses(arguments.to, arguments)
    print(f"wrote the addresses of {count:,} remote images to {file}")
    for reason, number in missing.most_common():
        print(f"{number:>12,}  {reason}")
    if results is not None:
        print(f"skipped the addresses of {skipped.total():,} remote images")
    for reason, number in skipped.most_common():
        print(f"{number:>12,}  {reason}")


def _print_train_command(corpus: "Corpus") -> None:
    """Prints the command that trains a model on the shards of a corpus."""
    text_encoder = "task.model.text_encoder"
    overrides = [
        f"task.train_data.corpus={corpus.shards}",
        f"{text_encoder}.vocabulary={corpus.vocabulary}",
    ]
    vocabulary = corpus.config.vocabulary
    if vocabulary.normalization != type(vocabulary)().normalization:
        overrides.append(f"{text_encoder}.normalization={vocabulary.normalization}")
    say(f"Open {corpus.out / 'report.html'}. Train on the corpus with:")
    say(f"  align-keras train --experiment E --params_override {','.join(overrides)}")


def _corpus_config(arguments: argparse.Namespace, out: pathlib.Path) -> "CorpusConfig":
    """Returns the configuration of the command.

    Without --config, the options of this call change the configuration that the last
    call stored in the folder `out`.
    """
    from align_keras.config import load_corpus_config

    saved = out / "corpus.yaml"
    files = arguments.config or ([saved] if saved.exists() else [])
    options = {
        "sources": arguments.source,
        "duplicates.against": arguments.against,
        "score.model": arguments.model,
    }
    overrides = {key: value for key, value in options.items() if value is not None}
    return load_corpus_config(files, [*arguments.params_override, overrides])
