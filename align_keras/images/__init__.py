"""Decode, resize, crop and augment, as graph operations."""

from align_keras.images.augment import augment_images
from align_keras.images.decode import decode_image
from align_keras.images.inception_crop import (
    central_crop_bytes,
    inception_crop_bytes,
    random_flip,
)
from align_keras.images.preprocess import (
    crop_size_to_resize_size,
    preprocess_image,
    preprocess_image_bytes,
    resize_image,
    uint8_pixels,
)
from align_keras.images.random_crop import crop_image, crop_image_bytes
from align_keras.images.readable_images import readable_images
