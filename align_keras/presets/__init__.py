"""Names, sizes, folders and downloads of presets, and the files of their models."""
