"""Servers of an index: page, JSON API and tools for agents."""
