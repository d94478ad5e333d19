"""Reading of a whole corpus source."""

import pathlib

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.source import open_source, read_part

IMG2DATASET = pathlib.Path(__file__).parents[1] / "corpus/sources/img2dataset"


def read_source(spec, spool=None, **options):
    """Reads all parts of a source. Options are those of `open_source`.

    Returns:
        Tuple of the list of pairs and the `DropCounter` of dropped ones.
    """
    counter, pairs = DropCounter(), []
    for part in open_source(str(spec), **options).parts():
        pairs += read_part(part, counter, spool)
    return pairs, counter
