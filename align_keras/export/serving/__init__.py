"""Files for TensorFlow Serving that an export contains."""
