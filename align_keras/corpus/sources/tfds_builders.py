"""Sources of the kind `tfds`: prepared data sets of TensorFlow Datasets.

TensorFlow Datasets does not return the position of an image in a file. Each part
therefore copies its images to a tar file.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from typing import Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.location import member_location
from align_keras.corpus.sources.pair import (
    EVALUATION,
    Part,
    SourceKind,
    SourcePair,
)
from align_keras.corpus.sources.source_files import SourceFile, record_ranges
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

_EXAMPLES_PER_PART = 1000
# Features with captions, in order of priority.
_CAPTION_FEATURES = (
    "captions",
    "caption",
    "texts",
    "text",
    "alt_text",
    "title",
    "description",
)
# Keys of the caption in a feature that is a dict, as in coco_captions.
_CAPTION_KEYS = ("text", "caption", "raw")


def data_folder(name: str) -> str:
    """Returns the folder of a prepared data set.

    Args:
        name: `NAME` or `NAME/CONFIG` of a data set, or its folder.

    Raises:
        InputError: if the data set is unknown or not prepared.
    """
    import tensorflow_datasets as tfds

    if os.path.isdir(name):
        return os.path.abspath(name)
    try:
        folder = os.fspath(tfds.builder(name).data_dir)
    except Exception as error:  # The code of a builder can raise any error.
        problem = str(error).strip().split("\n")[0]
        raise InputError(
            "A tfds source must be the name of a data set of TensorFlow Datasets, or "
            f"the folder of a prepared data set. Received: tfds:{name} ({problem}). "
            "Check the name."
        ) from None
    if not os.path.isdir(folder):
        raise InputError(
            f"The data set tfds:{name} must be prepared. Received: {folder}, which "
            f"does not exist. Run `tfds build {name}`."
        )
    return folder


def _list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Divides the examples of a split into parts of 1,000."""
    split = dict(whole.options)["split"]
    builder, _, _ = _open_builder(whole.root)
    check_choice(f"The split of tfds:{whole.root}:SPLIT", split, builder.info.splits)
    total = builder.info.splits[split].num_examples
    return record_ranges(whole, split, total, _EXAMPLES_PER_PART) if total else []


def _read_part(
    part: Part, counter: DropCounter, spool: str | os.PathLike
) -> Iterator[SourcePair]:
    """Yields the pairs of a range of a split, and writes its images to `spool`."""
    try:
        examples = list(_examples(part))
    except InputError:
        raise
    except Exception as error:
        # TensorFlow has its own classes of errors for missing and damaged files.
        is_missing = type(error).__name__ in ("NotFoundError", "FileNotFoundError")
        is_missing |= not os.path.isdir(part.root)
        reason = "vanished" if is_missing else "broken record"
        detail = str(error).strip().split("\n")[0]
        counter.drop(reason, str(part), detail, count=part.stop - part.start)
        return
    key = hashlib.blake2b(os.fsencode(part.root), digest_size=4).hexdigest()
    name = f"tfds-{key}-{part.files[0]}-{part.start:09d}-{part.stop:09d}.tar"
    path = os.path.join(os.path.abspath(spool), name)
    spans = _write_tar(path, part.start, [image for image, _, _ in examples])
    is_evaluation = EVALUATION in part.options
    for span, (_, captions, language) in zip(spans, examples, strict=True):
        if is_evaluation and not captions:
            captions = [""]
        image = member_location("bytes", span, path)
        for caption in captions:
            yield SourcePair(image, caption, language=language)


def _open_builder(folder: str) -> tuple[Any, str, str]:
    """Opens a prepared data set, and finds its image and caption features."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    # The features are sorted, since their stored order changes between runs.
    features = dict(sorted(builder.info.features.items()))
    images = [
        name
        for name, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    ]
    captions = [name for name in _CAPTION_FEATURES if name in features]
    if not images or not captions:
        raise InputError(
            f"The data set {builder.info.name} must have a feature of images and one "
            f"of captions ({', '.join(_CAPTION_FEATURES)}). Received: the features "
            f"{', '.join(features)}. Convert its pairs to a table."
        )
    return builder, "image" if "image" in images else images[0], captions[0]


def _examples(part: Part) -> Iterator[tuple[bytes, list[str], str]]:
    """Yields (bytes of the image, captions, language) in the order of the split."""
    import tensorflow_datasets as tfds

    builder, image, captions = _open_builder(part.root)
    examples = builder.as_dataset(
        split=f"{part.files[0]}[{part.start}:{part.stop}]",
        decoders={image: tfds.decode.SkipDecoding()},
        shuffle_files=False,
        # Files are read one after another, so the order is the same in every run.
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    for example in tfds.as_numpy(examples):
        language = example.get("language", b"")
        language = language.decode() if isinstance(language, bytes) else ""
        yield example[image], list(_texts(example[captions])), language


def _texts(value: Any) -> Iterator[str]:
    """Yields the captions of an example: a string, a sequence, or a dict with one."""
    if isinstance(value, dict):
        name = next((key for key in _CAPTION_KEYS if key in value), None)
        value = value[name] if name else ()
    if isinstance(value, bytes | str):
        value = [value]
    for text in value:
        yield text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _write_tar(path: str, first: int, images: list[bytes]) -> list[tuple[int, int]]:
    """Writes images to a tar file, and returns their (offset, size)."""
    spans = []
    with atomic_write(path, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for number, image in enumerate(images, start=first):
                member = tarfile.TarInfo(f"{number:09d}.bin")
                member.size = len(image)
                spans.append((tar.offset + tarfile.BLOCKSIZE, len(image)))
                tar.addfile(member, io.BytesIO(image))
    return spans


TFDS_BUILDERS = SourceKind(
    # All files of a data set are part of the fingerprint of a source.
    suffixes=("",),
    list_parts=_list_parts,
    read=_read_part,
    needs_spool=True,
)
