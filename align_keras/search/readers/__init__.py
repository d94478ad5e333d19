"""Image files, corpora and photos that an index or a query reads."""
