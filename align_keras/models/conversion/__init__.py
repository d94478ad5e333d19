"""Weights from and to other libraries' files: names, layouts and checks."""
