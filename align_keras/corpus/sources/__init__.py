"""Sources of image-caption pairs: web pages, shards, tables, folders, data sets."""
