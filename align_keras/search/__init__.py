"""Index and queries; an export is opened by its path alone."""

from align_keras.search.exported_model import ExportedModel
from align_keras.search.index import SearchIndex
