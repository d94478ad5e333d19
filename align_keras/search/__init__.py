"""Index and queries; an export is opened by its path alone."""

from align_keras.search.image_index import Index
from align_keras.search.index import SearchIndex
from align_keras.search.query import Hit, Query
