"""Where pairs come from: pages, archives, shards, tables, folders, data sets."""

from align_keras.corpus.sources.location import is_remote, read_location
from align_keras.corpus.sources.part import Part
from align_keras.corpus.sources.read_part import read_part
from align_keras.corpus.sources.source import Source, open_source
from align_keras.corpus.sources.source_pair import SourcePair
from align_keras.corpus.sources.url_list import write_url_list
