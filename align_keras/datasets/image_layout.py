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
    """How a corpus stores its images.

    Args:
        size: int, in pixels; nothing is enlarged. The limit of the longer side, or,
            where the aspect is kept, of the shorter one, since training resizes both
            to one length.
        square: bool, pad to a square on white; otherwise the aspect is kept.
        margin: bool, for squares: leave an eighth of the image's side white
            on each side. Evaluation keeps the middle 289/346 of a side (Jia et
            al. 2021, section 5), which then holds the whole image.
        encoding: `"png"`, or `"jpeg"` of quality 92 without chroma
            subsampling.
    """

    size: int
    square: bool = True
    margin: bool = False
    encoding: str = "png"

    def apply(self, image):
        """Brings a normalized image into this form.

        Args:
            image: `PIL.Image.Image` of mode RGB or L.

        Returns:
            `(content, image_key)`: the encoded bytes, and the key of the
            pixels that were encoded, or, where the aspect is kept, one that doesn't
            depend on `size`, so that an image keeps its split.

        Raises:
            ImageError: `"oversized"`, of a JPEG, where a side is too long for one.

        Example:

        >>> from PIL import Image
        >>> image = Image.new("RGB", (300, 100))
        >>> content, key = ImageLayout(size=64).apply(image)
        >>> Image.open(io.BytesIO(content)).size, len(key)
        ((64, 64), 32)
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


def square_image(image, size, margin=0):
    """Puts an image in the middle of a white square.

    The square's side is the image's longer side and the margins, but at most
    `size`: larger images are reduced (antialiased, aspect kept), smaller ones
    are never enlarged.

    Args:
        image: `PIL.Image.Image` of mode RGB or L.
        size: int, the largest side in pixels.
        margin: float ≥ 0, white on each side, as a share of the longer side.

    Returns:
        `PIL.Image.Image` of the same mode, its width equal to its height.

    Example:

    >>> from PIL import Image
    >>> square_image(Image.new("RGB", (400, 100)), 200).size
    (200, 200)
    >>> square_image(Image.new("RGB", (40, 10)), 200).size
    (40, 40)
    >>> square_image(Image.new("RGB", (400, 100)), 200, margin=1 / 8).getbbox()
    (0, 0, 200, 200)
    """
    image = limit_image(image, int(size / (1 + 2 * margin)))
    side = min(size, round(max(image.size) * (1 + 2 * margin)))
    if image.size == (side, side):
        return image
    square = Image.new(image.mode, (side, side), WHITE[: len(image.getbands())])
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def limit_image(image, size):
    """Reduces an image, antialiased, until its longer side is at most `size`.

    Args:
        image: `PIL.Image.Image` of mode RGB or L.
        size: int, the largest side in pixels.

    Returns:
        `PIL.Image.Image` of the same mode and, to a pixel, the same aspect.
    """
    longer = max(image.size)
    if longer <= size:
        return image
    scaled = [max(1, round(side * size / longer)) for side in image.size]
    return image.resize(scaled, Image.Resampling.LANCZOS, reducing_gap=3.0)


def reduce_image(image, shorter_side):
    """Reduces an image, antialiased, until its shorter side is `shorter_side`.

    Args:
        image: `PIL.Image.Image` of mode RGB or L.
        shorter_side: int, in pixels; images with a smaller one stay.

    Returns:
        `PIL.Image.Image` of the same mode and, to a pixel, the same aspect.
    """
    shorter = min(image.size)
    if shorter <= shorter_side:
        return image
    scaled = [round(side * shorter_side / shorter) for side in image.size]
    return image.resize(scaled, Image.Resampling.LANCZOS, reducing_gap=3.0)


def pixel_key(image):
    """Names an image by its pixels: equal pixels, equal key.

    Args:
        image: `PIL.Image.Image`; any other mode counts as its RGB form.

    Returns:
        str, 32 hexadecimal digits.
    """
    image = image if image.mode == "RGB" else image.convert("RGB")
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
