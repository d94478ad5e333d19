"""The common base of the image-text corpora: builder, form of images, splits."""

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
from PIL import Image

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.image import (
    WHITE,
    ImageError,
    check_jpeg_size,
    normalize_image,
)
from align_keras.utils.files import locked

# They scale, outside of the interpreter's lock; two bound the memory of huge images.
_THREADS = 2
_IN_FLIGHT = 64
# The key of `info.metadata` that holds a fingerprint for each split.
FINGERPRINTS = "fingerprints"
_DIGEST_BYTES = 16
# The longer side of what the key is made of, where the aspect is kept.
_KEY_SIDE = 384


@dataclasses.dataclass(frozen=True)
class RawPair:
    """An image's source for `_load`, its captions, and the pairs it stands for."""

    id: str
    source: Any
    captions: tuple
    category: str = ""
    split: str | None = None
    where: str = ""
    pairs: int = 1


@dataclasses.dataclass
class _Entry:
    raw: RawPair
    image_key: str
    offset: int
    length: int


# Content, key and conversion of a stored image, or why there is none.
_Stored = tuple[bytes, str, str | None] | ImageError


class LocalBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """A builder that downloads nothing and prints nothing."""

    if TYPE_CHECKING:  # TFDS's own, which mypy doesn't see.

        def __init_subclass__(cls, skip_registration: bool = False) -> None: ...

    # TFDS looks here for checksums of downloads, of which there are none, and
    # needs a distribution that it doesn't install (importlib_resources).
    code_path = None

    def _log_download_bytes(self) -> None:
        """Prints nothing on stdout, which belongs to results."""

    _log_download_done = _log_download_bytes


class PairBuilder(LocalBuilder, skip_registration=True):
    """Turns raw pairs into examples, counting in `info.metadata` whatever is dropped.

    A subclass defines `VERSION`, `LAYOUT`, `DESCRIPTION` and `_raw_pairs`, and where
    needed `_load`, `_notes`, `_split_keys` and what stands below.

    Args:
        root: str or path of what is read, by default that of an environment variable.
        max_bad_fraction: float in [0, 1], more bad pairs stop the build.
        progress: callable `(done, total)` or `None`.
        **kwargs: for `tfds.core.GeneratorBasedBuilder`, such as `data_dir`.
    """

    DESCRIPTION = ""
    # Reasons of an `ImageError` that are no faults.
    FILTERED_REASONS: frozenset[str] = frozenset()
    # Fraction of the test split among images whose pairs name no split.
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
        """Form of the stored images. A class attribute may replace this property."""
        raise NotImplementedError

    def _folder(self, variable: str, default: str) -> pathlib.Path:
        return pathlib.Path(self._root or os.environ.get(variable) or default)

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        """Yields `RawPair`s, what it drops counted in `counter`."""
        raise NotImplementedError

    def _load(self, source: Any) -> tuple[Image.Image, str | None]:
        """Returns `(image, conversion)` of one raw pair's source."""
        return normalize_image(source)

    def _notes(self) -> dict[str, Any]:
        """Returns a dict of further facts for the metadata."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(
                        shape=(None, None, 3), encoding_format=self.LAYOUT.encoding
                    ),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                    "category": tfds.features.Text(),
                    "image_key": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(),
        )

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Prepares the corpus, in a folder that is renamed at the end, if need be."""
        path = pathlib.Path(self.data_path)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path):
                if not path.exists():
                    for leftover in path.parent.glob(f"incomplete.*_{path.name}"):
                        shutil.rmtree(leftover, ignore_errors=True)
                    # An unnamed file: a kill leaves nothing.
                    with tempfile.TemporaryFile(dir=path.parent) as self._spooled:
                        super().download_and_prepare(**kwargs)
                    return
        self.info.read_from_directory(path)
        counter = DropCounter.from_metadata(self.info.metadata)
        counter.check(self._max_bad_fraction)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # Nothing is downloaded.
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
            "pictures": len(entries),
            "distinct_pictures": len({entry.image_key for entry in entries}),
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
            yield (
                entry.raw.id,
                {
                    "id": entry.raw.id,
                    "image": self._spooled.read(entry.length),
                    "captions": list(entry.raw.captions),
                    "category": entry.raw.category,
                    "image_key": entry.image_key,
                },
            )

    def _spool(self, raw_pairs: list[RawPair], counter: DropCounter) -> list[_Entry]:
        entries, offset, total = [], 0, len(raw_pairs)
        for done, (raw, outcome) in enumerate(self._stored(raw_pairs), start=1):
            if isinstance(outcome, ImageError):
                filtered = outcome.reason in self.FILTERED_REASONS
                count = counter.filter if filtered else counter.drop
                count(outcome.reason, raw.where, outcome.detail, count=raw.pairs)
            else:
                content, image_key, conversion = outcome
                self._spooled.write(content)
                entries.append(_Entry(raw, image_key, offset, len(content)))
                offset += len(content)
                counter.keep(raw.pairs)
                counter.convert(conversion)
            if self._progress:
                self._progress(done, total)
        return entries

    def _stored(self, raw_pairs: list[RawPair]) -> Iterator[tuple[RawPair, _Stored]]:
        """Yields `(raw, outcome)` in order, with a bounded number in flight."""
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(raw_pairs), _IN_FLIGHT):
                batch = raw_pairs[start : start + _IN_FLIGHT]
                yield from zip(batch, pool.map(self._store, batch), strict=True)

    def _store(self, raw: RawPair) -> _Stored:
        try:
            image, conversion = self._load(raw.source)
            return *self.LAYOUT.apply(image), conversion
        except ImageError as error:
            return error

    def _split(self, entries: list[_Entry]) -> dict[str, list[_Entry]]:
        splits: dict[str, list[_Entry]] = {"train": [], "test": []}
        keyed = list(zip(self._split_keys(entries), entries, strict=True))
        keys = {key for key, entry in keyed if entry.raw.split is None}
        test_keys = hashed_test_keys(keys, self.TEST_FRACTION, self.MOST_TEST_IMAGES)
        for key, entry in keyed:
            chosen = "test" if key in test_keys else "train"
            splits[entry.raw.split or chosen].append(entry)
        return splits

    def _split_keys(self, entries: list[_Entry]) -> list[str]:
        """Returns a key an image; what has the same stands in the same split."""
        return [entry.image_key for entry in entries]


def examples_fingerprint(
    examples: Iterable[tuple[str, Sequence[str], bytes]],
) -> str:
    """Returns a fingerprint of a split that doesn't depend on the stored order.

    Args:
        examples: iterable of each image's id, captions, and key or encoded content.

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
        # A sum, since TFDS stores the examples in an order of its own.
        total += int.from_bytes(digest.digest(), "big")
        count += 1
    total %= 1 << (8 * _DIGEST_BYTES)
    return f"{count}-{total:0{2 * _DIGEST_BYTES}x}"


# === The form of stored images, and their splits ===


@dataclasses.dataclass(frozen=True)
class ImageLayout:
    """Form of the stored images of a corpus. No image is enlarged.

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
        """Returns an image's bytes in this form, and its key, which no `size` changes
        where the aspect is kept.
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
    """Puts an image in the middle of a white square of at most `size` pixels."""
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


def _reduced(image: Image.Image, side: int, old_side: int) -> Image.Image:
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


def hashed_test_keys(
    image_keys: Iterable[str], fraction: float, at_most: int | None = None
) -> set[str]:
    """Chooses a fraction of images by their pixels' hash: at least one, never all."""
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
    """Groups names of (name, key) that share keys: each name's smallest."""
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
