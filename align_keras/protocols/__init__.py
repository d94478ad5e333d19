"""Benchmarks of the paper, from their data to their metrics."""
