"""Update of an index from folders, tables and embeddings."""
