"""Base class of the corpora, layout of stored images and selection of test images."""

import contextlib
import dataclasses
import hashlib
import io
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
from align_keras.corpus.image_tables import check_jpeg_size
from align_keras.utils.errors import ImageError
from align_keras.utils.files import locked
from align_keras.utils.pillow_images import decode_rgb
from align_keras.utils.rgb_colors import WHITE

# Number of threads that decode and resize images. Two threads limit the memory of very
# large images.
_THREADS = 2
# Number of images that are processed together.
_IMAGES_PER_BATCH = 64
# Key of the dict from split to fingerprint in `info.metadata`.
FINGERPRINTS = "fingerprints"
_DIGEST_BYTES = 16
# Pixels of the longer side of the image from which the pixel key is computed, for
# layouts that keep the aspect. It is independent of the stored size.
_KEY_SIDE = 384


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
    `_load`, `_notes`, `_split_keys`, `FILTERED_REASONS`, `TEST_FRACTION` and
    `MOST_TEST_IMAGES`.

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
    def LAYOUT(self) -> "ImageLayout":
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
        entries_by_key = list(zip(self._split_keys(entries), entries, strict=True))
        keys = {key for key, entry in entries_by_key if entry.raw.split is None}
        test_keys = hashed_test_keys(keys, self.TEST_FRACTION, self.MOST_TEST_IMAGES)
        for key, entry in entries_by_key:
            split_by_key = "test" if key in test_keys else "train"
            splits[entry.raw.split or split_by_key].append(entry)
        return splits

    def _split_keys(self, entries: list[_Entry]) -> list[str]:
        """Returns a key for each image. Images with equal keys are in one split."""
        return [entry.image_key for entry in entries]


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


# === Layout of stored images, and selection of test images ===


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


def hashed_test_keys(
    image_keys: Iterable[str], fraction: float, at_most: int | None = None
) -> set[str]:
    """Chooses the test images by the hashes of their pixels.

    Args:
        image_keys: pixel keys of the images.
        fraction: float in [0, 1], approximate fraction of test images.
        at_most: largest number of test images, or None.

    Returns:
        set of the chosen keys. It contains at least one key and never all keys.
    """
    keys = sorted(image_keys)
    count = sum(is_test_key(key, fraction) for key in keys)
    count = min(max(count, 1), len(keys) - 1)
    if at_most is not None:
        count = min(count, at_most)
    return set(keys[: max(count, 0)])


def is_test_key(image_key: str, fraction: float) -> bool:
    """Returns True if the hash of an image puts it into the test split."""
    return int(image_key[:8], 16) < fraction * 16**8


def linked_names(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Groups names that share keys, directly or through other names.

    Args:
        pairs: iterable of `(name, key)`.

    Returns:
        dict from each name to the smallest name of its group.
    """
    pairs = list(pairs)
    smallest, before = {name: name for name, _ in pairs}, None
    while smallest != before:
        before = dict(smallest)
        by_key: dict[str, str] = {}
        for name, key in pairs:
            by_key[key] = min(by_key.get(key, name), smallest[name])
        for name, key in pairs:
            smallest[name] = min(smallest[name], by_key[key])
    return smallest


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
