"""The form in which a corpus stores its pictures."""

import dataclasses
import io

from align_keras.corpus.picture import (
    check_jpeg_size,
    limit_picture,
    pixel_key,
    reduce_picture,
    square_picture,
)

# The longer side of what the key is made of, where the aspect is kept.
_KEY_SIDE = 384


@dataclasses.dataclass(frozen=True)
class PictureLayout:
    """How a corpus stores its pictures.

    Args:
        size: int, in pixels; nothing is enlarged. The limit of the longer side, or,
            where the aspect is kept, of the shorter one, since training resizes both
            to one length.
        square: bool, pad to a square on white; otherwise the aspect is kept.
        margin: bool, for squares: leave an eighth of the picture's side white
            on each side. Evaluation keeps the middle 289/346 of a side (Jia et
            al. 2021, section 5), which then holds the whole picture.
        encoding: `"png"`, or `"jpeg"` of quality 92 without chroma
            subsampling.
    """

    size: int
    square: bool = True
    margin: bool = False
    encoding: str = "png"

    def apply(self, image):
        """Brings a normalised picture into this form.

        Args:
            image: `PIL.Image.Image` of mode RGB or L.

        Returns:
            `(content, image_key)`: the encoded bytes, and the key of the
            pixels that were encoded, or, where the aspect is kept, one that doesn't
            depend on `size`, so that a picture keeps its split.

        Raises:
            PictureError: `"oversized"`, of a JPEG, where a side is too long for one.

        Example:

        >>> from PIL import Image
        >>> image = Image.new("RGB", (300, 100))
        >>> content, key = PictureLayout(size=64).apply(image)
        >>> Image.open(io.BytesIO(content)).size, len(key)
        ((64, 64), 32)
        """
        if self.square:
            image = square_picture(image, self.size, 1 / 8 if self.margin else 0)
            key = pixel_key(image)
        else:
            key = pixel_key(limit_picture(image, _KEY_SIDE))
            image = reduce_picture(image, self.size)
        file = io.BytesIO()
        if self.encoding == "jpeg":
            check_jpeg_size(*image.size)
            image.save(file, "JPEG", quality=92, subsampling=0)
        else:
            image.save(file, "PNG", compress_level=6)
        return file.getvalue(), key
