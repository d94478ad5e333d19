"""Sources of image-caption pairs: web pages, shards, tables, folders, data sets."""

from align_keras.corpus.sources.download_results import (
    missing_pairs,
    read_download_results,
)
from align_keras.corpus.sources.location import is_remote, read_location
from align_keras.corpus.sources.pair import Part, SourcePair
from align_keras.corpus.sources.source import Source, open_source, read_part
from align_keras.corpus.sources.url_list import write_url_list
