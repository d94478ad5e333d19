"""The common base of the image-text corpora."""

import dataclasses
import pathlib
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.image import ImageError, normalize_image
from align_keras.datasets.image_layout import ImageLayout
from align_keras.utils.files import locked

# Decoding and resizing release the interpreter lock, so threads scale; two
# bound the memory that two images just below the pixel limit need.
_THREADS = 2
_IN_FLIGHT = 64


@dataclasses.dataclass(frozen=True)
class RawPair:
    """An image's source, for `_load`, and its captions. Without a `split` its pixels
    decide; `where` names it, and `pairs` is how many of the user's it stands for.
    """

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


class LocalBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """A builder that downloads nothing and prints nothing."""

    if TYPE_CHECKING:  # TFDS's own, which mypy doesn't see.

        def __init_subclass__(cls, skip_registration: bool = False) -> None: ...

    # TFDS looks here for checksums of downloads, of which there are none, and
    # needs a distribution that it doesn't install (importlib_resources).
    code_path = None

    # TFDS prints these two on stdout, which belongs to results.

    def _log_download_bytes(self):
        pass

    def _log_download_done(self):
        pass


class PairBuilder(LocalBuilder, skip_registration=True):
    """Turns raw pairs into examples, counting in `info.metadata` whatever is dropped.

    A subclass defines `VERSION`, `LAYOUT`, `DESCRIPTION` and `_raw_pairs`, and where
    needed `_load`, `_choose_splits`, `_notes` and `FILTERED_REASONS`.

    Args:
        max_bad_fraction: float in [0, 1], more bad pairs stop the build.
        progress: callable `(done, total)` or `None`.
        **kwargs: for `tfds.core.GeneratorBasedBuilder`, such as `data_dir`.
    """

    DESCRIPTION = ""
    # Of the reasons of a `ImageError`, those that aren't faults.
    FILTERED_REASONS: frozenset[str] = frozenset()

    def __init__(self, *, max_bad_fraction=0.1, progress=None, **kwargs):
        self._max_bad_fraction = max_bad_fraction
        self._progress = progress
        super().__init__(**kwargs)

    # To be defined by the corpora.

    @property
    def LAYOUT(self) -> ImageLayout:
        """How images are stored; a class attribute will do."""
        raise NotImplementedError

    def _raw_pairs(self, counter):
        """Returns the list of `RawPair`, what it drops counted in `counter`."""
        raise NotImplementedError

    def _load(self, source):
        """Returns `(image, conversion)` of one raw pair's source."""
        return normalize_image(source)

    def _choose_splits(self, image_keys):
        """Returns the set of image keys whose images go to the test split."""
        raise NotImplementedError

    def _notes(self):
        """Returns a dict of further facts for the metadata."""
        return {}

    # What TFDS calls.

    def _info(self):
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
        """Prepares the corpus, in a folder that is renamed at the end, unless it is
        there.
        """
        path = pathlib.Path(self.data_path)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path):
                if not path.exists():
                    for leftover in path.parent.glob(f"incomplete.*_{path.name}"):
                        shutil.rmtree(leftover, ignore_errors=True)
                    super().download_and_prepare(**kwargs)
                    return
        self.info.read_from_directory(path)
        counter = DropCounter.from_metadata(self.info.metadata)
        counter.check(self._max_bad_fraction)

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        counter = DropCounter()
        raw_pairs = self._without_duplicate_ids(self._raw_pairs(counter), counter)
        # An unnamed file in the folder being written: a kill leaves nothing.
        spool = tempfile.TemporaryFile(dir=self._data_dir)
        entries = self._spool(raw_pairs, counter, spool)
        counter.check(self._max_bad_fraction)
        splits = self._split(entries)
        self.info.metadata.update(counter.as_metadata())
        self.info.metadata["summary"] = counter.lines()
        self.info.metadata["notes"] = {
            "pictures": len(entries),
            "distinct_pictures": len({entry.image_key for entry in entries}),
            **self._notes(),
        }
        return {
            name: self._generate_examples(members, spool)
            for name, members in splits.items()
            if members
        }

    def _generate_examples(self, entries, spool):
        for entry in entries:
            spool.seek(entry.offset)
            yield (
                entry.raw.id,
                {
                    "id": entry.raw.id,
                    "image": spool.read(entry.length),
                    "captions": list(entry.raw.captions),
                    "category": entry.raw.category,
                    "image_key": entry.image_key,
                },
            )

    # Steps.

    def _without_duplicate_ids(self, raw_pairs, counter):
        seen, kept = set(), []
        for raw in raw_pairs:
            if raw.id in seen:
                counter.drop("duplicate id", raw.where, f"id {raw.id}", count=raw.pairs)
            else:
                seen.add(raw.id)
                kept.append(raw)
        return kept

    def _spool(self, raw_pairs, counter, spool):
        entries, offset, total = [], 0, len(raw_pairs)
        for done, (raw, outcome) in enumerate(self._stored(raw_pairs), start=1):
            if isinstance(outcome, ImageError):
                filtered = outcome.reason in self.FILTERED_REASONS
                count = counter.filter if filtered else counter.drop
                count(outcome.reason, raw.where, outcome.detail, count=raw.pairs)
            else:
                content, image_key, conversion = outcome
                spool.write(content)
                entries.append(_Entry(raw, image_key, offset, len(content)))
                offset += len(content)
                counter.keep(raw.pairs)
                counter.convert(conversion)
            if self._progress:
                self._progress(done, total)
        return entries

    def _stored(self, raw_pairs):
        """Yields `(raw, outcome)` in order, with a bounded number in flight."""
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(raw_pairs), _IN_FLIGHT):
                batch = raw_pairs[start : start + _IN_FLIGHT]
                yield from zip(batch, pool.map(self._store, batch), strict=True)

    def _store(self, raw):
        try:
            image, conversion = self._load(raw.source)
            return *self.LAYOUT.apply(image), conversion
        except ImageError as error:
            return error

    def _split(self, entries):
        splits = {"train": [], "test": []}
        undecided = any(entry.raw.split is None for entry in entries)
        keys = {entry.image_key for entry in entries}
        test_keys = self._choose_splits(keys) if undecided else ()
        for entry in entries:
            chosen = "test" if entry.image_key in test_keys else "train"
            splits[entry.raw.split or chosen].append(entry)
        return splits
