"""Shards of a corpus with scores, without the stages that build them."""

import hashlib
import io
import os

import pyarrow
from PIL import Image

from align_keras.config.corpus_config import ShardsConfig
from align_keras.corpus.parquet_tables import table_writer
from align_keras.corpus.scores.score_table import (
    SCORES,
    uniform_draw,
    with_metadata,
)
from align_keras.corpus.shard_folder import (
    SHARDS,
    index_digest,
    read_shard,
    shard_counts,
)

NUM_IMAGES = 40


def image_examples(count=NUM_IMAGES):
    """Yields examples of `write_web_pairs` with one to three captions."""
    for number in range(count):
        file = io.BytesIO()
        color = (number, 5 * number, 99)
        Image.new("RGB", (40 + number, 36), color).save(file, "JPEG")
        key = hashlib.sha256(bytes([number])).hexdigest()[:32]
        texts = {
            name: [f"{name} {number} {index}" for index in range(number % 3 + 1)]
            for name in ("captions", "rules", "page_urls", "sources")
        }
        languages = ["en", "de", ""][: number % 3 + 1]
        yield {
            "id": f"{number:03}",
            "image": file.getvalue(),
            "image_key": key,
            "width": 800 + number,
            "height": 900,
            "location": f"/{number}.png",
            "languages": languages,
            **texts,
        }


def similarity(id, caption):
    """Returns the value of the column `similarity`."""
    return uniform_draw(f"similarity {id}", caption)


def write_shards(folder, **options):
    """Writes the shards of a corpus into `folder`, and returns their folder.

    `options` are those of `ShardsConfig`.
    """
    from align_keras.datasets.web_pairs import write_web_pairs

    folder.mkdir(parents=True, exist_ok=True)
    config = ShardsConfig(**{"test_fraction": 0.3, "number_of_shards": 3, **options})
    write_web_pairs(folder, image_examples, config, notes={})
    return folder / SHARDS


def write_scores(folder):
    """Writes the scores of the shards of a corpus, and returns their path."""
    shards = folder / SHARDS
    rows = [
        {
            "shard": name,
            "id": image.id,
            "caption_number": number,
            "caption": caption,
            "language": language,
            "similarity": similarity(image.id, caption),
            "draw": uniform_draw(image.id, caption),
        }
        for name, count in shard_counts(shards).items()
        for image in read_shard(os.path.join(shards, name), count)
        for number, (caption, language) in enumerate(
            zip(image.captions, image.languages, strict=True)
        )
    ]
    table = pyarrow.Table.from_pylist(rows)
    metadata = {"shards": index_digest(shards), "key": "score-test", "model": None}
    schema = with_metadata(table.schema, metadata)
    with table_writer(folder / SCORES, schema) as append:
        append(rows)
    return folder / SCORES
