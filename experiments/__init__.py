"""Experiments, corpora and evaluations as YAML files."""
