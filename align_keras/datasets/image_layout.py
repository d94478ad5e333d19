"""Layout and keys of the stored images of a corpus."""

import dataclasses
import hashlib
import io

from PIL import Image

from align_keras.corpus.image_tables import check_jpeg_size
from align_keras.utils.rgb_colors import WHITE

# Pixels of the longer side of the image from which the pixel key is computed, for
# layouts that keep the aspect. It is independent of the stored size.
_KEY_SIDE = 384


@dataclasses.dataclass(frozen=True)
class ImageLayout:
    """Layout of the stored images of a corpus. Images are never enlarged.

    Attributes:
        size: in pixels. Limits the side of a square image, or the shorter side of
            an image that keeps its aspect.
        square: whether to center the image on a white square.
        margin: whether to add an eighth of the size in white on each side.
            Evaluation crops the middle 289/346 of a side (Jia et al. 2021, section 5).
        encoding: `"png"`, or `"jpeg"` for quality 92 without chroma subsampling.
    """

    size: int
    square: bool = True
    margin: bool = False
    encoding: str = "png"

    def apply(self, image: Image.Image) -> tuple[bytes, str]:
        """Encodes an image.

        Returns:
            `(content, key)`: the encoded image and its pixel key. If the image keeps
            its aspect, the key doesn't depend on `size`.
        """
        if self.square:
            image = square_image(image, self.size, 1 / 8 if self.margin else 0)
            key = pixel_key(image)
        else:
            key = pixel_key(limit_image(image, _KEY_SIDE))
            image = reduce_image(image, self.size)
        file = io.BytesIO()
        if self.encoding == "jpeg":
            check_jpeg_size(*image.size)
            image.save(file, "JPEG", quality=92, subsampling=0)
        else:
            image.save(file, "PNG", compress_level=6)
        return file.getvalue(), key


def square_image(image: Image.Image, size: int, margin: float = 0) -> Image.Image:
    """Centers an image on a white square.

    Args:
        image: PIL image.
        size: largest side of the square in pixels.
        margin: white margin on each side as a fraction of the image's size.
    """
    image = limit_image(image, int(size / (1 + 2 * margin)))
    side = min(size, round(max(image.size) * (1 + 2 * margin)))
    if image.size == (side, side):
        return image
    square = Image.new(image.mode, (side, side), WHITE[: len(image.getbands())])
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def limit_image(image: Image.Image, size: int) -> Image.Image:
    """Reduces an image with antialiasing to a longer side of at most `size`."""
    return _reduced(image, size, max(image.size))


def reduce_image(image: Image.Image, shorter_side: int) -> Image.Image:
    """Resizes an image so that its shorter side is at most `shorter_side`.

    The image is antialiased. Smaller images are returned unchanged.
    """
    return _reduced(image, shorter_side, min(image.size))


def _reduced(image: Image.Image, side: int, old_side: int) -> Image.Image:
    """Scales an image by `side / old_side` unless that would enlarge it."""
    if old_side <= side:
        return image
    size = [max(1, round(length * side / old_side)) for length in image.size]
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def pixel_key(image: Image.Image) -> str:
    """Returns a hash of the RGB pixels of an image, hexadecimal."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    size = f"{image.width}x{image.height}:".encode()
    digest = hashlib.blake2b(size, digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()
