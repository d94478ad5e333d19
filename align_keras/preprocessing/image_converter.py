"""Image preprocessing of ALIGN as a KerasHub layer."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from align_keras.images import (
    augment_images,
    central_crop,
    crop_image,
    crop_image_bytes,
    crop_size_to_resize_size,
    decode_image,
    inception_crop,
    preprocess_image,
    random_flip,
    read_image,
    readable_images,
    resize_image,
    uint8_pixels,
)
from align_keras.images.preprocess import check_pixel_dtype, checked_value_range
from align_keras.images.read import encoded_image
from align_keras.preprocessing.tokenizer import is_called_by_grain
from align_keras.presets.saving import save_image_converter
from align_keras.presets.sizes import BuiltinPresets
from align_keras.presets.stored_config import open_part
from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError

# Training crops. "inception" and "whole" are only for classifiers.
CROPS = ("random", "paper", "center", "inception", "whole")


@keras.saving.register_keras_serializable(package="align_keras")
class ALIGNImageConverter(keras_hub.layers.ImageConverter):
    """Layer that decodes, resizes, crops and augments images for the image encoder.

    Evaluation resizes an image to a square with 346/289 of `image_size`, without
    keeping its aspect ratio, and crops the center. Training crops a window of the same
    relative size at a random position and mirrors half of the images. With `zoom`,
    `shift` or `recolor`, training resizes the images first and augments them as a
    batch.

    All operations are TensorFlow graph operations. The random numbers depend only on
    the seed, so the same seed yields the same pixels.

    Args:
        image_size: ≥ 32, height and width of the image encoder's input in pixels,
            or a pair (height, width) of two equal ints.
        crop: window of an image in training: `"random"` or `"center"` (289/346
            of each side), `"paper"` (as `"random"`, but the whole image is resized
            before, as in evaluation, which is slower), `"inception"` (random area and
            aspect ratio, for classifiers), or `"whole"` (the whole image, for
            classifiers).
        flip: mirror half of the training images from left to right.
        zoom: float ≥ 0. Each side of a training window is scaled by a random factor
            between exp(-zoom) and exp(zoom).
        shift: float ≥ 0. A training window is moved by up to this fraction of its side.
        recolor: in [0, 1], for dark drawings on white: fraction of the training
            images that get random colors.
        min_area: in (0, 1], smallest area of an `"inception"` window relative to
            the image.
        central_crop: float in (0, 1] or None. Evaluation crops this fraction of each
            side from the center and resizes it to `image_size`. The classifiers of the
            paper use 0.875. None is the evaluation of ALIGN, described above.
        value_range: two floats or None, black and white of float pixels: (0, 1),
            (-1, 1) or (0, 255). None refuses float pixels.
        **kwargs: `name` and `dtype`, as for every Keras layer.

    Call arguments:
        inputs: pixels, or a string tensor (n,) or () of encoded images or paths. Pixels
            are uint8, or floats in `value_range`, with the shape (n, height, width, 3)
            or (height, width, 3), or a ragged tensor of images of different sizes.
        training: augment the images.
        seed: int64 tensor (2,), required in training.

    Returns:
        Tensor (n, image_size, image_size, 3), or without n for one image, in
        [0, 255]. Evaluation gives float32 (uint8 with `central_crop`). Training gives
        uint8 (float32 with `zoom`, `shift` or `recolor`). In a pipeline of Grain, it is
        a NumPy array.

    Raises:
        InputError: if an argument has the wrong type or value.
        tf.errors.InvalidArgumentError: if an image cannot be decoded.

    References:
        Jia et al. 2021, section 5 (resize to 346, random crop of 289, horizontal flip)
        and section 5.3 (central crop of 0.875 for classifiers).

    Example:

    >>> converter = ALIGNImageConverter(64)
    >>> pixels = tf.zeros((2, 90, 120, 3), tf.uint8)
    >>> converter(pixels).shape
    TensorShape([2, 64, 64, 3])
    >>> converter(pixels, training=True, seed=(0, 1)).dtype
    tf.uint8
    """

    presets = BuiltinPresets()

    def __init__(
        self,
        image_size: int | Sequence[int],
        crop: str = "random",
        flip: bool = True,
        zoom: float = 0.0,
        shift: float = 0.0,
        recolor: float = 0.0,
        min_area: float = 0.08,
        central_crop: float | None = None,
        value_range: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        side = _checked_side(image_size)
        check_choice("crop", crop, CROPS)
        check_number("zoom", zoom, 0, float("inf"))
        check_number("shift", shift, 0, float("inf"))
        check_number("recolor", recolor, 0, 1)
        check_number("min_area", min_area, 1e-9, 1)
        if central_crop is not None:
            check_number("central_crop", central_crop, 1e-9, 1)
        super().__init__(
            image_size=(side, side),
            crop_to_aspect_ratio=False,
            antialias=True,
            data_format="channels_last",
            **kwargs,
        )
        self.crop = crop
        self.flip = bool(flip)
        self.zoom = zoom
        self.shift = shift
        self.recolor = recolor
        self.min_area = min_area
        self.central_crop = central_crop
        self.value_range: tuple[float, float] | None = None
        if value_range is not None:
            self.value_range = checked_value_range(value_range)
        self.built = True

    @property
    def side(self) -> int:
        """Height and width of the image encoder's input in pixels."""
        return self.image_size[0]

    @property
    def augments_batches(self) -> bool:
        """True if training resizes single images and augments them as a batch."""
        return bool(self.zoom or self.shift or self.recolor)

    def with_options(self, **options: Any) -> "ALIGNImageConverter":
        """Returns a converter with other values of constructor arguments."""
        return type(self).from_config({**self.get_config(), **options})

    def call(
        self, inputs: Any, training: bool | None = None, seed: Any = None
    ) -> tf.Tensor | np.ndarray:
        if not isinstance(inputs, tf.RaggedTensor):
            inputs = tf.convert_to_tensor(inputs)
        is_single = inputs.shape.rank == (0 if inputs.dtype == tf.string else 3)
        if is_single:
            inputs = inputs[tf.newaxis]
        if training:
            images = self.augment_rows(inputs, checked_seed(seed))
        else:
            images = self.convert_rows(inputs)
        if is_single:
            images = images[0]
        if tf.executing_eagerly() and is_called_by_grain():
            return images.numpy()
        return images

    # === One image ===

    def decode(self, image: tf.Tensor) -> tf.Tensor:
        """Returns uint8 pixels (height, width, 3) of an encoded image or of pixels."""
        if image.dtype == tf.string:
            return decode_image(image)
        return uint8_pixels(image, self.value_range)

    def convert(self, image: tf.Tensor) -> tf.Tensor:
        """Prepares an image for evaluation.

        Args:
            image: scalar string tensor, an encoded image, or pixels (…, height, width,
                3).

        Returns:
            float32 tensor (…, image_size, image_size, 3) of whole numbers in
            [0, 255], or uint8 with `central_crop`.
        """
        pixels = self.decode(image)
        if self.central_crop is not None:
            return central_crop(pixels, self.side, self.central_crop)
        return preprocess_image(pixels, self.side)

    def augment(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Crops and mirrors a training image.

        Args:
            image: scalar string tensor, an encoded image, or pixels (height, width, 3).
            seed: int64 tensor (2,), the seed of this image.

        Returns:
            uint8 tensor (image_size, image_size, 3). With `augments_batches`, the
            image is only resized, to the side that `augment_batch` expects.
        """
        if self.augments_batches:
            return self.resize(image)
        if self.crop == "inception":
            return inception_crop(
                self.decode(image), self.side, seed, self.min_area, self.flip
            )
        if self.crop == "whole":
            whole = central_crop(self.decode(image), self.side, 1.0)
            return random_flip(whole, seed) if self.flip else whole
        return self.crop_window(image, tf.random.stateless_uniform((3,), seed))

    def crop_window(self, image: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """Crops a window of a training image and mirrors it.

        Args:
            image: as in `augment`.
            numbers: float32 tensor (3,) in [0, 1): the vertical and the horizontal
                position of the window, and a number that mirrors the image if it is
                below 0.5.

        Returns:
            uint8 tensor (image_size, image_size, 3).
        """
        is_random = self.crop in ("random", "paper")
        position = numbers[:2] if is_random else tf.fill((2,), 0.5)
        is_flipped = numbers[2] < 0.5 if self.flip else False
        if self.crop == "paper":
            return crop_image(self.resize(image), self.side, position, is_flipped)
        if image.dtype == tf.string:
            # This function decodes only the window, which is faster.
            return crop_image_bytes(image, self.side, position, is_flipped)
        return crop_image(self.decode(image), self.side, position, is_flipped)

    def resize(self, image: tf.Tensor) -> tf.Tensor:
        """Resizes a whole image to the side that `augment_batch` expects, as uint8."""
        return resize_image(self.decode(image), crop_size_to_resize_size(self.side))

    def read(self, image: Any, row: int) -> tf.Tensor:
        """Reads a path, an encoded image or an array for evaluation.

        Args:
            image: path, bytes, or array (height, width, 3).
            row: position of the image among all images, for error messages.

        Returns:
            float32 tensor (image_size, image_size, 3), resized and cropped as in the
            evaluation of ALIGN.

        Raises:
            InputError: if the image cannot be read. The message contains its path or
                its row.
        """
        return read_image(image, row, self.side, self.value_range)

    # === A batch ===

    def convert_rows(self, images: Any) -> tf.Tensor:
        """Prepares a batch of encoded images, paths or pixels for evaluation."""
        dtype = tf.float32 if self.central_crop is None else tf.uint8
        return self._map_images(self.convert, images, (), self.side, dtype)

    def augment_rows(self, images: Any, seed: tf.Tensor) -> tf.Tensor:
        """Augments a batch of encoded images, paths or pixels.

        Args:
            images: string tensor (n,), pixels (n, height, width, 3) or a ragged tensor.
            seed: int64 tensor (2,), the seed of the batch.

        Returns:
            Tensor (n, image_size, image_size, 3), as for a call in training.
        """
        side = self.side
        if self.augments_batches:
            resized_side = crop_size_to_resize_size(side)
            resized = self._map_images(self.resize, images, (), resized_side, tf.uint8)
            return self.augment_batch(resized, seed + tf.constant([0, 1], tf.int64))
        count = _row_count(images)
        if self.crop in ("inception", "whole"):
            seeds = tf.random.stateless_uniform(
                (count, 2), seed, minval=None, maxval=None, dtype=tf.int64
            )
            return self._map_images(self.augment, images, (seeds,), side, tf.uint8)
        numbers = tf.random.stateless_uniform((count, 3), seed)
        return self._map_images(self.crop_window, images, (numbers,), side, tf.uint8)

    def _map_images(
        self,
        function: Callable,
        images: Any,
        arguments: tuple[tf.Tensor, ...],
        side: int,
        dtype: tf.DType,
    ) -> tf.Tensor:
        """Applies a function to each image and the matching row of each argument."""
        self.check_dtype(images.dtype)
        return tf.map_fn(
            lambda row: function(_dense_image(row[0]), *row[1:]),
            (images, *arguments),
            fn_output_signature=tf.TensorSpec((side, side, 3), dtype),
        )

    def check_dtype(self, dtype: tf.DType) -> None:
        """Raises `InputError` unless images of this dtype can be converted.

        The dtype is checked before `tf.map_fn`, because its function must not raise.
        TensorFlow would stay in the scope of the function, and no strategy scope could
        be entered later.
        """
        if dtype != tf.string:
            check_pixel_dtype(dtype, self.value_range)

    def augment_batch(
        self,
        images: tf.Tensor,
        seed: tf.Tensor,
        input_pipeline_id: int = 0,
        num_input_pipelines: int = 1,
    ) -> tf.Tensor:
        """Crops, mirrors, zooms, shifts and recolors a batch of resized images.

        Args:
            images: uint8 tensor (n, side, side, 3), as `resize` returns them.
            seed: int64 tensor (2,), the seed of the batch.
            input_pipeline_id: number of this part if the images are a part of a
                larger batch. The result is the same as for the larger batch.
            num_input_pipelines: ≥ 1, number of equal parts of the larger batch.

        Returns:
            float32 tensor (n, image_size, image_size, 3) in [0, 255].
        """
        return augment_images(
            images,
            self.side,
            seed,
            crop=self.crop in ("random", "paper"),
            flip=self.flip,
            zoom=self.zoom,
            shift=self.shift,
            recolor=self.recolor,
            input_pipeline_id=input_pipeline_id,
            num_input_pipelines=num_input_pipelines,
        )

    def convert_readable(self, files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Prepares encoded images for evaluation, of which some may be damaged.

        Args:
            files: string tensor (n,), encoded images.

        Returns:
            float32 tensor (n, image_size, image_size, 3), black for a file that
            cannot be decoded, and bool tensor (n,), True for a decoded file.
        """
        return readable_images(files, self.side)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain JSON."""
        # `super().get_config()` would add the resizing arguments of KerasHub.
        config = keras.layers.Layer.get_config(self)
        config["image_size"] = self.side
        config["crop"] = self.crop
        config["flip"] = self.flip
        config["zoom"] = self.zoom
        config["shift"] = self.shift
        config["recolor"] = self.recolor
        config["min_area"] = self.min_area
        config["central_crop"] = self.central_crop
        config["value_range"] = None
        if self.value_range is not None:
            config["value_range"] = list(self.value_range)
        return config

    def save_to_preset(self, preset_dir: str | os.PathLike) -> None:
        """Writes `image_converter.json` to a folder."""
        save_image_converter(self, preset_dir)

    @classmethod
    def from_preset(
        cls, preset: str | os.PathLike, **kwargs: Any
    ) -> "ALIGNImageConverter":
        """Returns the image converter of a preset.

        Args:
            preset: as for `ALIGN.from_preset`.
            **kwargs: `image_size`, `revision` and `token`, as for
                `ALIGN.from_preset`.

        Raises:
            InputError: for the reasons of `ALIGN.from_preset`.

        Example:

        >>> ALIGNImageConverter.from_preset("align_small_en").image_size
        (144, 144)
        """
        return open_part("image_converter", preset, **kwargs)


def checked_seed(seed: Any) -> tf.Tensor:
    """Returns a seed as an int64 tensor (2,), or raises `InputError`."""
    if seed is None:
        raise InputError(
            "`seed` must be two integers in training. Received: None. Pass another "
            "seed for each batch, such as seed=(0, step)."
        )
    return tf.ensure_shape(tf.cast(tf.convert_to_tensor(seed), tf.int64), (2,))


def _checked_side(image_size: Any) -> int:
    """Returns the side of a square, which is an int or a pair of equal ints."""
    sides = [image_size]
    if isinstance(image_size, Sequence) and not isinstance(image_size, str):
        sides = list(image_size)
    if len(sides) not in (1, 2) or len(set(sides)) != 1:
        raise InputError(
            "`image_size` must be one int or two equal ints. "
            f"Received: image_size={image_size!r}. Pass the side of a square in pixels."
        )
    check_number("image_size", sides[0], 1, 65_535, whole=True)
    return int(sides[0])


def _row_count(images: Any) -> tf.Tensor:
    """Returns the number of images in a batch as a scalar int32 tensor."""
    if isinstance(images, tf.RaggedTensor):
        return tf.cast(images.nrows(), tf.int32)
    return tf.shape(images)[0]


def _dense_image(image: Any) -> tf.Tensor:
    """Returns pixels as a dense tensor, and the bytes of an encoded image or a path."""
    if isinstance(image, tf.RaggedTensor):
        return tf.ensure_shape(image.to_tensor(), (None, None, 3))
    return encoded_image(image)
