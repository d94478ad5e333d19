"""Pictures with captions in several languages."""

import dataclasses

from align_keras.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class MultilingualCaptions:
    """Pictures and, by language, the captions of each.

    Attributes:
        images: list of str, paths, or of bytes, encoded pictures.
        captions: dict from a language to a list of list of str, the captions of
            each picture.
        image_ids: list of str.
        columns: dict from a name to a list with one value a picture, by which
            metrics can be sliced.
        missing: int, pictures that were left out: their files aren't there or are none.

    Raises:
        InputError: when the lengths don't fit.

    Example:

    >>> data = MultilingualCaptions(["a.png"], {"de": [["Eine Katze"]]}, ["a"])
    >>> data.captions["de"]
    [['Eine Katze']]
    """

    images: list
    captions: dict
    image_ids: list
    columns: dict = dataclasses.field(default_factory=dict)
    missing: int = 0

    def __post_init__(self):
        """Checks that every list has one entry a picture."""
        named = {"image_ids": self.image_ids} | {
            f"captions[{language!r}]": own for language, own in self.captions.items()
        }
        named |= {f"columns[{name!r}]": own for name, own in self.columns.items()}
        for name, part in named.items():
            if len(part) != len(self.images):
                raise InputError(
                    f"`{name}` must have one entry a picture, received {len(part)} "
                    f"for {len(self.images)} pictures."
                )

    def of_rows(self, rows):
        """Returns some of the pictures; the others count as missing.

        Args:
            rows: sequence of int.
        """
        captions, columns = (
            {name: [own[row] for row in rows] for name, own in part.items()}
            for part in (self.captions, self.columns)
        )
        return MultilingualCaptions(
            images=[self.images[row] for row in rows],
            captions=captions,
            image_ids=[self.image_ids[row] for row in rows],
            columns=columns,
            missing=self.missing + len(self.images) - len(rows),
        )
