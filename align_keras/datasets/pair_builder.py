"""Base class of the TFDS builders that convert raw pairs to examples."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from align_keras.corpus.drop_counter import DropCounter
from align_keras.datasets.image_layout import ImageLayout
from align_keras.datasets.splits import hashed_test_keys
from align_keras.utils.errors import ImageError
from align_keras.utils.files import locked
from align_keras.utils.pillow_images import decode_rgb

# Number of threads that decode and resize images. Two threads limit the memory of very
# large images.
_THREADS = 2
# Number of images that are processed together.
_IMAGES_PER_BATCH = 64
# Key of the dict from split to fingerprint in `info.metadata`.
FINGERPRINTS = "fingerprints"
_DIGEST_BYTES = 16


@dataclasses.dataclass(frozen=True)
class RawPair:
    """An image with its captions before it is decoded.

    Attributes:
        id: unique id of the example.
        source: argument of `PairBuilder._load`, by default the path or the bytes of an
            image.
        caption_sources: tuple of str, the source of each caption, or an empty tuple.
        category: str, or "" if the corpus has no categories.
        split: str, or None to choose the split by the pixels of the image.
        where: position of the pair in its source for error messages.
        pairs: number of pairs that count as kept or dropped.
    """

    id: str
    source: Any
    captions: tuple
    category: str = ""
    split: str | None = None
    where: str = ""
    pairs: int = 1
    caption_sources: tuple = ()


@dataclasses.dataclass
class _Entry:
    """Position of an encoded image in the temporary file."""

    raw: RawPair
    image_key: str
    offset: int
    length: int


# Encoded image, pixel key and conversion, or the error that drops the image.
_EncodedImage = tuple[bytes, str, str | None] | ImageError


class LocalBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """TFDS builder that neither downloads nor prints."""

    if TYPE_CHECKING:  # mypy does not know the method of TFDS.

        def __init_subclass__(cls, skip_registration: bool = False) -> None: ...

    def _log_download_bytes(self) -> None:
        """Does nothing, because stdout is reserved for results."""

    _log_download_done = _log_download_bytes


class PairBuilder(LocalBuilder, skip_registration=True):
    """Base class of TFDS builders that convert raw pairs to examples.

    The numbers of kept and dropped pairs are stored in `info.metadata`. A subclass
    defines `VERSION`, `LAYOUT`, `DESCRIPTION` and `_raw_pairs`. It may override
    `_load`, `_notes`, `FILTERED_REASONS`, `TEST_FRACTION` and `MOST_TEST_IMAGES`.

    Args:
        root: str or path of the raw data. By default it is read from an environment
            variable of the subclass.
        max_bad_fraction: float in [0, 1]. The build fails if a larger fraction of the
            pairs is bad.
        progress: callable that receives the number of finished images and their total,
            or None.
        **kwargs: arguments of `tfds.core.GeneratorBasedBuilder`, such as `data_dir`.
    """

    DESCRIPTION = ""
    # Reasons of `ImageError` that filter a pair without counting it as bad.
    FILTERED_REASONS: frozenset[str] = frozenset()
    # Fraction of the test split among the images whose pairs don't set a split.
    TEST_FRACTION = 0.05
    MOST_TEST_IMAGES: int | None = None

    def __init__(
        self,
        *,
        root: str | os.PathLike | None = None,
        max_bad_fraction: float = 0.1,
        progress: Callable[[int, int], object] | None = None,
        **kwargs: Any,
    ) -> None:
        self._root = root
        self._max_bad_fraction = max_bad_fraction
        self._progress = progress
        super().__init__(**kwargs)

    @property
    def LAYOUT(self) -> ImageLayout:
        """Layout of the stored images. A class attribute may replace this property."""
        raise NotImplementedError

    def _folder(self, variable: str, default: str) -> pathlib.Path:
        """Returns `root`, or the folder in an environment variable, or the default."""
        return pathlib.Path(self._root or os.environ.get(variable) or default)

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        """Yields `RawPair`s and counts dropped pairs in `counter`."""
        raise NotImplementedError

    def _load(self, source: Any) -> tuple[Image.Image, str | None]:
        """Decodes a source. Returns the image, and its conversion or None."""
        return decode_rgb(source)

    def _notes(self) -> dict[str, Any]:
        """Returns additional entries for `info.metadata["notes"]`."""
        return {}

    @property
    def has_caption_sources(self) -> bool:
        """True if the examples have the feature `caption_sources`."""
        return False

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(
                shape=(None, None, 3), encoding_format=self.LAYOUT.encoding
            ),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "category": tfds.features.Text(),
            "image_key": tfds.features.Text(),
        }
        if self.has_caption_sources:
            features["caption_sources"] = tfds.features.Sequence(tfds.features.Text())
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
        )

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Prepares the corpus unless it is prepared already.

        TFDS writes to a temporary folder, which it renames at the end.
        """
        path = pathlib.Path(self.data_path)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path):
                if not path.exists():
                    for leftover in path.parent.glob(f"incomplete.*_{path.name}"):
                        shutil.rmtree(leftover, ignore_errors=True)
                    # The file has no name, so it disappears if the process is killed.
                    with tempfile.TemporaryFile(dir=path.parent) as self._spooled:
                        super().download_and_prepare(**kwargs)
                    return
        self.info.read_from_directory(path)
        counter = DropCounter.from_metadata(self.info.metadata)
        counter.check(self._max_bad_fraction)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # The corpora need no download.
        counter = DropCounter()
        raw_pairs: dict[str, RawPair] = {}
        for raw in self._raw_pairs(counter):
            if raw.id in raw_pairs:
                counter.drop("duplicate id", raw.where, f"id {raw.id}", count=raw.pairs)
            raw_pairs.setdefault(raw.id, raw)
        entries = self._spool(list(raw_pairs.values()), counter)
        counter.check(self._max_bad_fraction)
        splits = self._split(entries)
        self.info.metadata.update(counter.as_metadata())
        self.info.metadata["summary"] = counter.lines()
        self.info.metadata["notes"] = {
            "images": len(entries),
            "distinct_images": len({entry.image_key for entry in entries}),
            **self._notes(),
        }
        self.info.metadata[FINGERPRINTS] = {
            name: examples_fingerprint(
                (entry.raw.id, entry.raw.captions, entry.image_key.encode())
                for entry in members
            )
            for name, members in splits.items()
            if members
        }
        return {
            name: self._generate_examples(members)
            for name, members in splits.items()
            if members
        }

    def _generate_examples(
        self, entries: list[_Entry]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for entry in entries:
            self._spooled.seek(entry.offset)
            example = {
                "id": entry.raw.id,
                "image": self._spooled.read(entry.length),
                "captions": list(entry.raw.captions),
                "category": entry.raw.category,
                "image_key": entry.image_key,
            }
            if self.has_caption_sources:
                example["caption_sources"] = list(entry.raw.caption_sources)
            yield entry.raw.id, example

    def _spool(self, raw_pairs: list[RawPair], counter: DropCounter) -> list[_Entry]:
        """Writes the encoded images to the temporary file and counts them."""
        entries, offset, total = [], 0, len(raw_pairs)
        for done, (raw, encoded) in enumerate(self._encode_all(raw_pairs), start=1):
            if isinstance(encoded, ImageError):
                is_filtered = encoded.reason in self.FILTERED_REASONS
                count = counter.filter if is_filtered else counter.drop
                count(encoded.reason, raw.where, encoded.detail, count=raw.pairs)
            else:
                content, image_key, conversion = encoded
                self._spooled.write(content)
                entries.append(_Entry(raw, image_key, offset, len(content)))
                offset += len(content)
                counter.keep(raw.pairs)
                counter.convert(conversion)
            if self._progress:
                self._progress(done, total)
        return entries

    def _encode_all(
        self, raw_pairs: list[RawPair]
    ) -> Iterator[tuple[RawPair, _EncodedImage]]:
        """Yields the raw pairs with their encoded images, in order and in batches."""
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(raw_pairs), _IMAGES_PER_BATCH):
                batch = raw_pairs[start : start + _IMAGES_PER_BATCH]
                yield from zip(batch, pool.map(self._encode, batch), strict=True)

    def _encode(self, raw: RawPair) -> _EncodedImage:
        try:
            image, conversion = self._load(raw.source)
            return *self.LAYOUT.apply(image), conversion
        except ImageError as error:
            return error

    def _split(self, entries: list[_Entry]) -> dict[str, list[_Entry]]:
        """Returns the entries of each split."""
        splits: dict[str, list[_Entry]] = {"train": [], "test": []}
        keys = {entry.image_key for entry in entries if entry.raw.split is None}
        test_keys = hashed_test_keys(keys, self.TEST_FRACTION, self.MOST_TEST_IMAGES)
        for entry in entries:
            split_by_key = "test" if entry.image_key in test_keys else "train"
            splits[entry.raw.split or split_by_key].append(entry)
        return splits


def examples_fingerprint(
    examples: Iterable[tuple[str, Sequence[str], bytes]],
) -> str:
    """Returns a fingerprint of examples that doesn't depend on their order.

    Args:
        examples: iterable of `(id, captions, image)`. The image is its pixel key or its
            encoded bytes.

    Returns:
        str, hexadecimal.
    """
    total = count = 0
    for name, captions, image in examples:
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        texts = [text.encode("utf-8", "surrogatepass") for text in (name, *captions)]
        for part in (*texts, image):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        # A sum doesn't depend on the order in which TFDS stores the examples.
        total += int.from_bytes(digest.digest(), "big")
        count += 1
    total %= 1 << (8 * _DIGEST_BYTES)
    return f"{count}-{total:0{2 * _DIGEST_BYTES}x}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the progress bars and warnings of TFDS."""
    # The progress bars of TFDS would interfere with the progress bars of the caller.
    # TFDS also warns about each configuration that isn't registered.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.ERROR))
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)
