"""Rows and vectors that an index stores, in a folder or in PostgreSQL."""
