"""The last stages of a corpus: vocabulary and shards."""

import collections
import functools
import hashlib
import json
import os
import shutil

from align_keras.cli.corpus_dedup import dedup
from align_keras.config import as_dict
from align_keras.corpus.stages.kept_pictures import kept_captions, kept_pictures
from align_keras.text.coverage import Coverage
from align_keras.text.vocabulary import learn_vocabulary, save_vocabulary
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_folder, atomic_write, locked
from align_keras.utils.progress import say

VOCABULARY = "vocabulary.txt"
SHARDS = "web_pairs/1.0.0"
INDEX = "index.json"
_CAPTIONS_PER_LANGUAGE = 20_000
_LANGUAGES = 200


def vocabulary(build):
    """Learns the vocabulary of what stays; `OUT/vocabulary.txt`."""
    config = build.config.vocabulary
    pictures, duplicates = build.pictures(), dedup(build)
    inputs = [pictures.folder.key, duplicates.folder.key, as_dict(config)]

    def run(stage):
        say("corpus vocab: of the kept captions")
        kept = functools.partial(
            kept_captions,
            pictures.paths("group"),
            pictures.paths(),
            duplicates.facts["dropped"],
        )
        tokens = learn_vocabulary(
            (caption for caption, _ in kept()),
            config.size,
            min_frequency=config.min_frequency,
            normalization=config.normalization,
        )
        save_vocabulary(tokens, stage.path / VOCABULARY)
        facts = {
            "tables": 0,
            "tokens": len(tokens),
            "normalization": config.normalization,
            "languages": _coverage(tokens, config.normalization, kept()),
        }
        return facts, ()

    made = build.stage("vocab", inputs, run)
    _place_file(made.folder.path / VOCABULARY, build.out / VOCABULARY)
    return made


def _coverage(tokens, normalization, kept):
    """How the vocabulary fits each language, by the first captions of each."""
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


def shards(build):
    """Writes the shards that training reads; `OUT/web_pairs/1.0.0`."""
    pictures, duplicates = build.pictures(), dedup(build)
    config = build.config.shards
    inputs = [pictures.folder.key, duplicates.folder.key, as_dict(config)]

    def run(stage):
        say("corpus shard: writing the shards")
        counts = _prepare(build, stage, pictures, duplicates)
        return {"tables": 0, **counts}, ()

    made = build.stage("shard", inputs, run)
    _place_shards(made, build.out / SHARDS)
    return made


def _prepare(build, stage, pictures, duplicates):
    import tensorflow_datasets as tfds

    from align_keras.datasets.build import quiet
    from align_keras.datasets.web_pairs import WebPairs

    config = build.config.shards
    folder = stage.path / SHARDS
    shutil.rmtree(folder.parent, ignore_errors=True)
    rows = functools.partial(
        kept_pictures,
        pictures.paths("group"),
        pictures.paths(),
        duplicates.facts["dropped"],
    )
    if next(rows(), None) is None:
        raise InputError(
            "the corpus is empty, no picture passed all filters; see the funnel of "
            "`align-keras corpus report`, and lower the filters' thresholds in "
            "--config."
        )
    with quiet():
        builder = WebPairs(
            pictures=rows,
            description="Image-text pairs built by align-keras corpus.",
            notes={"config": _origin(build.config)},
            test_fraction=config.test_fraction,
            data_dir=str(stage.path),
            file_format=config.file_format,
        )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                num_shards=config.number_of_shards
            )
        )
    index = _index(builder, folder)
    with atomic_write(folder / INDEX) as file:
        json.dump(index, file, indent=1)
    return {name: index[name] for name in ("pictures", "splits")}


def _origin(config):
    """What the shards depend on, in whatever order it was given."""
    own = as_dict(config)
    del own["vocabulary"]
    own["sources"] = sorted(own["sources"])
    own["duplicates"]["against"] = sorted(own["duplicates"]["against"])
    return own


def _index(builder, folder):
    """Counts and checksums of the shards."""
    files = []
    for split, info in sorted(builder.info.splits.items()):
        for path, count in zip(info.filepaths, info.shard_lengths, strict=True):
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files.append(
                {
                    "file": os.path.basename(path),
                    "split": split,
                    "pictures": count,
                    "bytes": os.path.getsize(path),
                    "sha256": digest,
                }
            )
    splits = {name: own.num_examples for name, own in builder.info.splits.items()}
    return {"pictures": sum(splits.values()), "splits": splits, "shards": files}


def _place_file(source, destination):
    with atomic_write(destination, "wb") as file:
        file.write(source.read_bytes())


def _place_shards(made, destination):
    """Puts the shards under their final name; links share the disk's room."""
    source = made.folder.path / SHARDS
    index = destination / INDEX
    if index.exists() and index.read_bytes() == (source / INDEX).read_bytes():
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    with locked(destination):
        with atomic_folder(destination) as folder:
            for path in sorted(source.iterdir()):
                try:
                    os.link(path, folder / path.name)
                except OSError:  # Another disk, or one without links.
                    shutil.copy2(path, folder / path.name)
