"""Index of images and its queries, and models that are opened by their path."""

from align_keras.search.image_index import Index
from align_keras.search.items import ModelIdentity
from align_keras.search.query import Hit, Query
