"""Validation, paths, seeds and progress: nothing of the domain."""
