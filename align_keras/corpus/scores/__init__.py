"""Scores of the pairs in a corpus, and selections of pairs by conditions on them."""

from align_keras.corpus.scores.score_table import (
    ScoreTable,
    Selection,
    ShardSelection,
)

__all__ = ["ScoreTable", "Selection", "ShardSelection"]
