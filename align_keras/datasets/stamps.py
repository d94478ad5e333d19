"""TFDS builder for the stamps of Tux Paint with captions in several languages."""

import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds

from align_keras.corpus.caption_cleaning import clean_caption
from align_keras.corpus.drop_counter import DropCounter
from align_keras.datasets.image_layout import ImageLayout
from align_keras.datasets.pair_builder import PairBuilder, RawPair
from align_keras.utils.errors import InputError

STAMPS_DIR = "/usr/share/tuxpaint/stamps"
STAMPS_DIR_VARIABLE = "ALIGN_KERAS_STAMPS_DIR"
LANGUAGES = ("en", "de", "fr", "cs")

# Folder of letters, digits and coins with captions such as "A" and "1 cent".
_EXCLUDED_FOLDER = "symbols"


class Stamps(PairBuilder):
    """Stamps of Tux Paint: photographs and drawings with captions, for tests.

    The captions are in English (`stamps` or `stamps/en`), German (`stamps/de`), French
    (`stamps/fr`) or Czech (`stamps/cs`). The images come from the Debian package
    `tuxpaint-stamps-default`, without `symbols/`. They are searched in `root`, in the
    folder `ALIGN_KERAS_STAMPS_DIR`, or in the folder of the Debian package. There is
    only a `test` split.

    Example:

    >>> print(Stamps(config="de").info.description)
    Tux Paint's stamps with captions, without symbols.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {"1.1.0": "A margin keeps the whole image in the evaluation crop."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=language, description=f"Captions: {language}.")
        for language in LANGUAGES
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "en"
    LAYOUT = ImageLayout(size=320, margin=True, encoding="png")
    DESCRIPTION = "Tux Paint's stamps with captions, without symbols."

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        root = self._folder(STAMPS_DIR_VARIABLE, STAMPS_DIR)
        images = sorted(
            path
            for path in root.glob("**/*.png")
            if path.relative_to(root).parts[0] != _EXCLUDED_FOLDER
        )
        if not images:
            raise InputError(
                "Corpus 'stamps' needs the images of tuxpaint-stamps-default, but "
                f"{root} contains none. Run apt-get install tuxpaint-stamps-default, "
                f"or set {STAMPS_DIR_VARIABLE} to the folder of the stamps."
            )
        for path in images:
            where = path.relative_to(root).as_posix()
            caption_file = path.with_suffix(".txt")
            if not caption_file.exists():  # Mirrored variants have no caption file.
                counter.filter("no caption file", where)
                continue
            caption = stamp_caption(caption_file, self.builder_config.name)
            if not caption:
                counter.filter(f"no caption in {self.builder_config.name}", where)
                continue
            category = where.split("/")[0]
            identifier = where.removesuffix(".png")
            yield RawPair(identifier, path, (caption,), category, "test", where)


def stamp_caption(path: pathlib.Path, language: str) -> str:
    """Returns the caption of a stamp in a language, or "" if there is none.

    The first line of the file is in English. Other languages are in lines such as
    `de.utf8=Eine Katze.`.
    """
    lines = path.read_text("utf-8-sig", errors="replace").splitlines()
    if language == "en":
        return clean_caption(lines[0]) if lines else ""
    prefix = f"{language}.utf8="
    for line in lines[1:]:
        if line.startswith(prefix):
            return clean_caption(line.removeprefix(prefix))
    return ""
