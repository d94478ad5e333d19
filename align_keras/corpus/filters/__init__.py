"""Filters of section 3 of the paper, for lists in memory and for large tables."""
