"""Search index of images and the queries on it."""

from align_keras.search.image_index import Index
from align_keras.search.index.schema import ModelIdentity
from align_keras.search.query.hits import Hit
from align_keras.search.query.query import Query

__all__ = [
    "Hit",
    "Index",
    "ModelIdentity",
    "Query",
]
