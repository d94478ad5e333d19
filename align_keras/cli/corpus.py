"""`align-keras corpus`: from web pages and archives to shards that train a model."""

import pathlib

from align_keras.utils.errors import InputError

STAGES = {
    "extract": "pairs out of the sources",
    "filter": "the paper's filters of pictures and texts",
    "dedup": "copies of evaluation images and, if asked for, of each other",
    "vocab": "the WordPiece vocabulary",
    "shard": "shards that tfds.builder_from_directory and training open",
    "report": "report.html: what was kept and dropped, and why",
    "build": "all of these",
    "urls": "the list of remote pictures, for img2dataset",
}


def add_arguments(parser):
    """Adds the command's arguments."""
    parser.formatter_class = _formatter()
    parser.epilog = "stages, each with those before it:\n" + "\n".join(
        f"  {name:<9}{what}" for name, what in STAGES.items()
    )
    parser.add_argument(
        "stage", choices=tuple(STAGES), metavar="STAGE", help="see below"
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
        help="a source of evaluation pictures, whose copies leave the corpus",
    )
    parser.add_argument(
        "--runner",
        default="DirectRunner",
        help="of Apache Beam: DirectRunner takes this machine's cores; FlinkRunner, "
        "SparkRunner, DataflowRunner and others a cluster that sees DIR",
    )
    parser.add_argument(
        "--runner_option",
        action="append",
        default=[],
        metavar="OPTION",
        help="of the runner, such as --runner_option=--direct_num_workers=1",
    )
    parser.add_argument(
        "--to",
        metavar="FILE",
        help="of urls: the list to write, .parquet, .csv or .tsv",
    )


def run(arguments):
    """Runs the command; returns its exit code."""
    if (arguments.stage == "urls") != (arguments.to is not None):
        raise InputError(
            "--to must name the list of the stage urls, and be left out elsewhere, "
            f"received {arguments.to!r} for {arguments.stage}; write --to urls.parquet."
        )
    from align_keras.utils.files import locked
    from align_keras.utils.progress import say

    out = pathlib.Path(arguments.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out must be a folder, received the file {out}.")
    out.mkdir(parents=True, exist_ok=True)
    config = _config(arguments, out)
    from align_keras.cli.corpus_build import CorpusBuild, check_sources
    from align_keras.cli.corpus_dedup import check_encoder
    from align_keras.cli.corpus_stages import run_stage
    from align_keras.config import save_config

    check_sources(config)
    check_encoder(config.duplicates)
    build = CorpusBuild(out, config, arguments.runner, arguments.runner_option)
    with locked(
        out / "corpus.yaml",
        lambda: say(f"corpus: waiting for another align-keras corpus on {out}"),
    ):
        save_config(config, out / "corpus.yaml")
        run_stage(build, arguments.stage, arguments.to)
    return 0


def _config(arguments, out):
    """The configuration of this call, over that of the last."""
    from align_keras.config import load_corpus_config

    saved = out / "corpus.yaml"
    files = arguments.config or ([saved] if saved.exists() else [])
    overrides = list(arguments.params_override)
    for key, given in (
        ("sources", arguments.source),
        ("duplicates.against", arguments.against),
    ):
        if given is not None:
            overrides.append({key: list(given)})
    return load_corpus_config(files, overrides)


def _formatter():
    import argparse

    return argparse.RawDescriptionHelpFormatter
