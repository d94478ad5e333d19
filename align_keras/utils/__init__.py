"""Validation, paths, remote files, tasks and progress, without any model code."""
