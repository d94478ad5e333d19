"""Command line of the package.

Each subcommand has a module, which imports the libraries that it needs only when it
runs.
"""
