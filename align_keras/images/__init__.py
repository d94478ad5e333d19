"""Decoding, resizing, cropping and augmentation of images as graph operations."""

from align_keras.images.augment import augment_images
from align_keras.images.crops import (
    central_crop,
    crop_image,
    crop_image_bytes,
    inception_crop,
    random_flip,
)
from align_keras.images.decode import decode_image
from align_keras.images.preprocess import (
    crop_size_to_resize_size,
    preprocess_image,
    preprocess_image_bytes,
    resize_image,
    uint8_pixels,
)
from align_keras.images.read import image_path, read_image, readable_images

__all__ = [
    "augment_images",
    "central_crop",
    "crop_image",
    "crop_image_bytes",
    "crop_size_to_resize_size",
    "decode_image",
    "inception_crop",
    "preprocess_image",
    "preprocess_image_bytes",
    "random_flip",
    "read_image",
    "readable_images",
    "resize_image",
    "uint8_pixels",
]
