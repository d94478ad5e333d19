"""Queries of an index, from text to hits."""
