"""Pictures with any number of captions each."""

import dataclasses

from align_keras.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class CaptionedImages:
    """Pictures and the captions of each.

    Attributes:
        images: list of str, paths, or of bytes, encoded pictures.
        captions: list of list of str, the captions of each picture.
        image_ids: list of str.
        caption_ids: list of list of str, as `captions`.
        columns: dict from a name to a list with one value a picture, by which
            metrics can be sliced.
        missing: int, pictures that were left out: their files aren't there or are none.

    Raises:
        InputError: when the lengths don't fit.

    Example:

    >>> CaptionedImages(["a.png"], [["a cat", "a pet"]], ["7"], [["7#0", "7#1"]])
    CaptionedImages(images=['a.png'], ..., columns={}, missing=0)
    """

    images: list
    captions: list
    image_ids: list
    caption_ids: list
    columns: dict = dataclasses.field(default_factory=dict)
    missing: int = 0

    def __post_init__(self):
        """Checks that every list has one entry a picture, or a caption."""
        parts = {
            "images": self.images,
            "captions": self.captions,
            "image_ids": self.image_ids,
            "caption_ids": self.caption_ids,
            **{f"columns[{name!r}]": own for name, own in self.columns.items()},
        }
        for name, part in parts.items():
            if len(part) != len(self.images):
                raise InputError(
                    f"`{name}` must have one entry a picture, received {len(part)} "
                    f"for {len(self.images)} pictures."
                )
        for image_id, texts, ids in zip(
            self.image_ids, self.captions, self.caption_ids, strict=True
        ):
            if len(texts) != len(ids):
                raise InputError(
                    f"`caption_ids` must have one entry a caption, received {len(ids)} "
                    f"for the {len(texts)} captions of {image_id}."
                )

    def __len__(self):
        """Returns the number of pictures."""
        return len(self.images)

    def of_rows(self, rows):
        """Returns some of the pictures; the others count as missing.

        Args:
            rows: sequence of int.

        Example:

        >>> data = CaptionedImages(["a", "b"], [["x"], ["y"]], "01", [["2"], ["3"]])
        >>> part = data.of_rows([1])
        >>> part.images, part.captions, part.missing
        (['b'], [['y']], 1)
        """
        return CaptionedImages(
            images=[self.images[row] for row in rows],
            captions=[self.captions[row] for row in rows],
            image_ids=[self.image_ids[row] for row in rows],
            caption_ids=[self.caption_ids[row] for row in rows],
            columns={
                name: [own[row] for row in rows] for name, own in self.columns.items()
            },
            missing=self.missing + len(self) - len(rows),
        )
