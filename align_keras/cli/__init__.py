"""The command line: one module per command, each light to import."""
