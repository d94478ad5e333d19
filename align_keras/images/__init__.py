"""Decode, resize, crop and augment, as graph operations."""

from align_keras.images.augment import augment_images
from align_keras.images.preprocess import (
    crop_size_to_resize_size,
    decode_image,
    preprocess_image,
    preprocess_image_bytes,
    resize_image,
)
