"""The files that an export carries for TensorFlow Serving, copied as they are."""
