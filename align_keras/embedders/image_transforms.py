"""Transforms from images of any size to the pixels that an image tower takes."""

import dataclasses
from typing import Protocol

import numpy as np
from PIL import Image

# Longer images are cut to this ratio of their sides before they are resized, because an
# image of one row would become millions of columns. This shifts the result by at most
# half a pixel.
_MAX_RATIO = 64


class ImageTransform(Protocol):
    """Function from an upright RGB image to the pixels that an image tower takes."""

    @property
    def shorter_side(self) -> int | None:
        """Pixels that suffice for the shorter side of a JPEG, or None for all pixels.

        A larger JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which is faster.
        """

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Returns the pixels of an image, uint8 array (height, width, 3)."""


@dataclasses.dataclass(frozen=True)
class ResizeSquare:
    """Resizes an image to a square with Pillow.

    Args:
        side: side of the square in pixels.
    """

    side: int

    @property
    def shorter_side(self) -> int:
        return 2 * self.side

    def __call__(self, image: Image.Image) -> np.ndarray:
        size = (self.side, self.side)
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


@dataclasses.dataclass(frozen=True)
class ResizeSquareAsTensorflow:
    """Resizes an image to a square with the pixels of `align_keras.images`.

    Pillow rounds after each of its two passes. On 100 drawings and 100 screenshots, 6%
    and 12% of the values therefore differ from TensorFlow by one gray level, and 0.02%
    with floats. The embeddings of Keras then differ by a cosine of 0.996 at worst, and
    those of the 8-bit `image.tflite` by 0.989. Floats take 2.5 times as long, and an
    index, the LiteRT example and a browser resize 8-bit images too, so this is only for
    comparisons with a Keras model.

    Args:
        side: side of the square in pixels.
    """

    side: int

    @property
    def shorter_side(self) -> None:
        return None

    def __call__(self, image: Image.Image) -> np.ndarray:
        size = (self.side, self.side)
        channels = [
            np.asarray(channel.convert("F").resize(size, Image.Resampling.BILINEAR))
            for channel in image.split()
        ]
        return np.rint(np.stack(channels, axis=-1)).clip(0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class OpenCLIPTransform:
    """Resizes and crops an image as the evaluation transform of open_clip does.

    Args:
        side: side of the result in pixels.
        resize_mode: `"shortest"` resizes the shorter side and crops the longer one.
            `"longest"` resizes the longer side and pads the shorter one. `"squash"`
            resizes both sides.
        interpolation: filter of the resizing.
        fill_color: gray level of the padding.
    """

    side: int
    resize_mode: str
    interpolation: Image.Resampling
    fill_color: int

    @property
    def shorter_side(self) -> None:
        # open_clip resizes the complete image.
        return None

    def __call__(self, image: Image.Image) -> np.ndarray:
        if self.resize_mode == "squash":
            size = (self.side, self.side)
        elif self.resize_mode == "longest":
            scale = self.side / max(image.size)
            size = (_scaled(image.width, scale), _scaled(image.height, scale))
        else:
            image = _shortened(image)
            # As torchvision, which rounds down.
            shorter = min(image.size)
            size = (
                self.side * image.width // shorter,
                self.side * image.height // shorter,
            )
        resized = image.resize(size, self.interpolation)
        return self._crop_or_pad(np.asarray(resized))

    def _crop_or_pad(self, pixels: np.ndarray) -> np.ndarray:
        """Crops or pads both sides at the center."""
        for axis in (0, 1):
            excess = pixels.shape[axis] - self.side
            if excess > 0:
                start = round(excess / 2)
                window = range(start, start + self.side)
                pixels = pixels.take(window, axis=axis)
            elif excess < 0:
                padding = [(0, 0)] * 3
                padding[axis] = (-excess // 2, -excess - -excess // 2)
                pixels = np.pad(pixels, padding, constant_values=self.fill_color)
        return np.ascontiguousarray(pixels)


def _scaled(length: int, scale: float) -> int:
    return max(1, round(length * scale))


def _shortened(image: Image.Image) -> Image.Image:
    """Cuts the ends of an image that is much longer than wide."""
    longest = _MAX_RATIO * min(image.size)
    # An even number of pixels is removed, so that the center stays where it is.
    left = max(0, (image.width - longest) // 2)
    top = max(0, (image.height - longest) // 2)
    if not left and not top:
        return image
    return image.crop((left, top, image.width - left, image.height - top))
