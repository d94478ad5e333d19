"""Conversion of weights from and to the files of other libraries."""
