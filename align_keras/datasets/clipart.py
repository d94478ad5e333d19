"""TFDS builder for the Open Clip Art Library."""

import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from align_keras.corpus.drop_counter import DropCounter
from align_keras.datasets.clipart_captions import (
    SvgMetadata,
    clipart_captions,
    read_svg_metadata,
    without_shared_captions,
)
from align_keras.datasets.pair_builder import ImageLayout, PairBuilder, RawPair
from align_keras.utils.errors import InputError
from align_keras.utils.pillow_images import ImageError

CLIPART_DIR = "/usr/share/openclipart"
CLIPART_DIR_VARIABLE = "ALIGN_KERAS_CLIPART_DIR"


class Clipart(PairBuilder):
    """Drawings of the Open Clip Art Library with noisy captions, for training.

    The captions come from titles, descriptions, file names and keywords. The drawings
    come from the Debian packages `openclipart-png` and `openclipart-svg`. Their folders
    `png/` and `svg/` are searched in `root`, in the folder `ALIGN_KERAS_CLIPART_DIR`,
    or in the folder of the Debian packages. 5% of the images form the `test` split.

    References:
        Jia et al. 2021, section 3 (alt-texts shared by more than 10 images).

    Example:

    >>> print(Clipart().info.description)
    Open Clip Art Library drawings with cleaned captions.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "A margin keeps the whole image in the evaluation crop. There are "
        "fewer keywords. White images are left out.",
    }
    LAYOUT = ImageLayout(size=320, margin=True, encoding="png")
    FILTERED_REASONS = frozenset({"white on white"})
    DESCRIPTION = "Open Clip Art Library drawings with cleaned captions."

    _without_metadata = 0

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        root = self._folder(CLIPART_DIR_VARIABLE, CLIPART_DIR)
        images = sorted((root / "png").glob("**/*.png"))
        if not images or not (root / "svg").is_dir():
            raise InputError(
                "Corpus 'clipart' needs the drawings of openclipart-png and "
                f"openclipart-svg, but {root} has no png/ or no svg/. Run apt-get "
                "install openclipart-png openclipart-svg, or set "
                f"{CLIPART_DIR_VARIABLE} to the folder of the drawings."
            )
        names = [path.relative_to(root / "png").as_posix() for path in images]
        captions = without_shared_captions(
            [self._captions(root / "svg", pathlib.Path(name)) for name in names]
        )
        for path, name, texts in zip(images, names, captions, strict=True):
            if not texts:
                counter.filter("only captions that too many images share", name)
                continue
            identifier, category = name.removesuffix(".png"), name.split("/")[0]
            yield RawPair(identifier, path, tuple(texts), category, None, name)

    def _load(self, source: Any) -> tuple[Image.Image, str | None]:
        image, conversion = super()._load(source)
        if image.convert("L").getextrema() == (255, 255):
            raise ImageError("white on white", "all pixels are white")
        return image, conversion

    def _captions(self, folder: pathlib.Path, name: pathlib.Path) -> dict[str, str]:
        try:
            metadata = read_svg_metadata(folder / name.with_suffix(".svg"))
        except OSError:
            metadata = SvgMetadata()
        if metadata == SvgMetadata():
            self._without_metadata += 1
        return clipart_captions(metadata, name.stem)

    def _notes(self) -> dict[str, Any]:
        return {"images_without_metadata": self._without_metadata}
