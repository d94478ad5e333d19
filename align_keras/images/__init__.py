"""Decode, resize, crop and augment, as graph operations."""

from align_keras.images.augment import augment_images
from align_keras.images.preprocess import crop_size_to_resize_size
from align_keras.images.preprocess import decode_image
from align_keras.images.preprocess import preprocess_image
from align_keras.images.preprocess import preprocess_image_bytes
from align_keras.images.preprocess import resize_image
