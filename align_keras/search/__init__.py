"""Search index of images and the queries on it.

Each part imports only the parts before it:

- `readers`: image files, corpora, tables of `embed`, and photos.
- `index`: stored rows and vectors, in a folder or in PostgreSQL. The tables are in
  `index/schema.py`.
- `update`: files into the index. `update/update.py` has the sequence.
- `query`: from a query to hits. `query/searcher.py` has the sequence.
- `image_index`: the class `Index`, which opens, updates and searches an index.
- `bulk_embeddings`: the function `embed`, which needs no index.
- `tags`: zero-shot tags of the images of an index.
- `serve`: the web page in `page`, its JSON API, and the tools for agents.
"""

from align_keras.search.image_index import Index
from align_keras.search.index.image_store import ModelIdentity
from align_keras.search.query.hits import Hit
from align_keras.search.query.query import Query

__all__ = [
    "Hit",
    "Index",
    "ModelIdentity",
    "Query",
]
