"""Clean image-caption pairs from raw sources, with counts of the dropped pairs.

`align_keras.datasets` opens finished corpora and benchmarks, and `align_keras.data`
turns their examples into batches. The modules of this package are imported on first
use, because an index needs few of them.
"""

from typing import TYPE_CHECKING, Any

from align_keras.utils.lazy_names import import_name

_PUBLIC = {
    "Pair": "align_keras.corpus.filters.pairs",
    "Thresholds": "align_keras.corpus.filters.filter_rules",
    "extract_pairs": "align_keras.corpus.html_pairs",
    "filter_pairs": "align_keras.corpus.filters.pairs",
    "write_uid_subset": "align_keras.corpus.sources.uid_subset",
}
__all__ = sorted(_PUBLIC)


if TYPE_CHECKING:
    from align_keras.corpus.filters.filter_rules import Thresholds as Thresholds
    from align_keras.corpus.filters.pairs import Pair as Pair
    from align_keras.corpus.filters.pairs import filter_pairs as filter_pairs
    from align_keras.corpus.html_pairs import extract_pairs as extract_pairs
    from align_keras.corpus.sources.uid_subset import (
        write_uid_subset as write_uid_subset,
    )
else:

    def __getattr__(name: str) -> Any:
        return import_name(__name__, _PUBLIC, name)
