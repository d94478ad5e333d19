"""The form in which a data set stores its images."""

import dataclasses
import hashlib
import io

from PIL import Image

from align_keras.corpus.image import WHITE, check_jpeg_size

# The longer side of what the key is made of, where the aspect is kept.
_KEY_SIDE = 384


@dataclasses.dataclass(frozen=True)
class ImageLayout:
    """How a corpus stores its images; nothing is enlarged.

    `size` limits the longer side of a square on white, or, where the aspect is kept,
    the shorter one. A `margin` leaves an eighth white on each side: evaluation keeps
    the middle 289/346 (Jia et al. 2021, section 5). JPEGs have quality 92, all of their
    chroma.
    """

    size: int
    square: bool = True
    margin: bool = False
    encoding: str = "png"

    def apply(self, image: Image.Image) -> tuple[bytes, str]:
        """Returns a normalized image's bytes in this form, and its key: of the pixels
        encoded or, where the aspect is kept, of no `size`, so that an image keeps its
        split.
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
    """Puts an image in the middle of a white square of at most `size` pixels, with
    margins of a share of the image's longer side.
    """
    image = limit_image(image, int(size / (1 + 2 * margin)))
    side = min(size, round(max(image.size) * (1 + 2 * margin)))
    if image.size == (side, side):
        return image
    square = Image.new(image.mode, (side, side), WHITE[: len(image.getbands())])
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def limit_image(image: Image.Image, size: int) -> Image.Image:
    """Reduces an image, antialiased, until its longer side is at most `size`."""
    return _reduced(image, size, max(image.size))


def reduce_image(image: Image.Image, shorter_side: int) -> Image.Image:
    """Reduces an image, antialiased, until its shorter side is `shorter_side`."""
    return _reduced(image, shorter_side, min(image.size))


def _reduced(image, side, old_side):
    if old_side <= side:
        return image
    size = [max(1, round(length * side / old_side)) for length in image.size]
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def pixel_key(image: Image.Image) -> str:
    """Names an image by its pixels as RGB: equal pixels, equal key."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    size = f"{image.width}x{image.height}:".encode()
    digest = hashlib.blake2b(size, digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()
