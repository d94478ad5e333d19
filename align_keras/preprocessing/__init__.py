"""Layers that convert images and captions to the inputs of the encoders."""
