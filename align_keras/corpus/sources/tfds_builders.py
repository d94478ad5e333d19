"""Kind `tfds`: prepared data sets with images and captions. Their images have no place
of their own in a file, so reading copies them into a tar file for each part.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from typing import Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.location import member_location
from align_keras.corpus.sources.pair import Part, SourceKind, SourcePair
from align_keras.corpus.sources.source_files import SourceFile, record_ranges
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

# All of a prepared data set's files count for the fingerprint.
_EXAMPLES_A_PART = 1000
_CAPTIONS = ("captions", "caption", "texts", "text", "alt_text", "title", "description")
# Keys of the caption in a feature that is a dict, as in coco_captions.
_TEXTS = ("text", "caption", "raw")


def data_folder(name: str) -> str:
    """Finds where `NAME`, `NAME/CONFIG` or the folder of one version is prepared."""
    import tensorflow_datasets as tfds

    if os.path.isdir(name):
        return os.path.abspath(name)
    try:
        folder = os.fspath(tfds.builder(name).data_dir)
    except Exception as error:  # Unknown names, configs, and the builder's own errors.
        problem = str(error).strip().split("\n")[0]
        raise InputError(
            f"tfds:{name} must name a data set of TensorFlow Datasets or the folder "
            f"of a prepared one: {problem}"
        ) from None
    if not os.path.isdir(folder):
        raise InputError(
            f"tfds:{name} must be prepared, but {folder} isn't there; run "
            f"`tfds build {name}`."
        )
    return folder


def _list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Shares the examples of a split out, 1,000 a part."""
    split = dict(whole.options)["split"]
    builder, _, _ = _opened(whole.root)
    check_choice(f"the split of tfds:{whole.root}:SPLIT", split, builder.info.splits)
    total = builder.info.splits[split].num_examples
    return record_ranges(whole, split, total, _EXAMPLES_A_PART) if total else []


def _read_part(
    part: Part, counter: DropCounter, spool: str | os.PathLike | None
) -> Iterator[SourcePair]:
    """Yields the pairs of a range of a split; their tar file goes into `spool`."""
    if spool is None:
        raise InputError(
            f"spool must be a folder for the images of {part}, received None; name one."
        )
    try:
        examples = list(_examples(part))
    except InputError:
        raise
    except Exception as error:  # TensorFlow's own errors for files gone or broken.
        gone = type(error).__name__ in ("NotFoundError", "FileNotFoundError")
        reason = "vanished" if gone else "broken record"
        detail = str(error).strip().split("\n")[0]
        counter.drop(reason, str(part), detail, count=part.stop - part.start)
        return
    key = hashlib.blake2b(os.fsencode(part.root), digest_size=4).hexdigest()
    name = f"tfds-{key}-{part.files[0]}-{part.start:09d}-{part.stop:09d}.tar"
    path = os.path.join(os.path.abspath(spool), name)
    spans = _write_tar(path, part.start, [image for image, _, _ in examples])
    for span, (_, captions, language) in zip(spans, examples, strict=True):
        image = member_location("bytes", span, path)
        for caption in captions:
            yield SourcePair(image, caption, language=language)


def _opened(folder: str) -> tuple[Any, str, str]:
    """Returns the builder, and its features with the image and with its captions."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:
        problem = str(error).strip().split("\n")[0]
        raise InputError(
            f"{folder} must be the folder of one version of a prepared data set, "
            f"with dataset_info.json and features.json: {problem}"
        ) from None
    # In the order of names: that of the stored description changes between runs.
    features = dict(sorted(builder.info.features.items()))
    images = [
        name
        for name, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    ]
    captions = [name for name in _CAPTIONS if name in features]
    if not images or not captions:
        raise InputError(
            f"{builder.info.name} must have a feature of images and one of captions "
            f"({', '.join(_CAPTIONS)}), received {', '.join(features)}; give its pairs "
            "as a table."
        )
    return builder, "image" if "image" in images else images[0], captions[0]


def _examples(part: Part) -> Iterator[tuple[bytes, list[str], str]]:
    """Yields (image's bytes, captions, language) in the order of the split."""
    import tensorflow_datasets as tfds

    if not os.path.isdir(part.root):
        raise FileNotFoundError(part.root)
    builder, image, captions = _opened(part.root)
    examples = builder.as_dataset(
        split=f"{part.files[0]}[{part.start}:{part.stop}]",
        decoders={image: tfds.decode.SkipDecoding()},
        shuffle_files=False,
        # One file after another: the same order in every run.
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    for example in tfds.as_numpy(examples):
        language = example.get("language", b"")
        language = language.decode() if isinstance(language, bytes) else ""
        yield example[image], list(_texts(example[captions])), language


def _texts(value: Any) -> Iterator[str]:
    """Yields the captions in a feature: a text, several, or a dict that has them."""
    if isinstance(value, dict):
        name = next((key for key in _TEXTS if key in value), None)
        value = value[name] if name else ()
    if isinstance(value, bytes | str):
        value = [value]
    for text in value:
        yield text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _write_tar(path: str, first: int, images: list[bytes]) -> list[tuple[int, int]]:
    """Writes the images; returns the (offset, size) of each."""
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
    suffixes=("",),
    list_parts=_list_parts,
    read=_read_part,
    needs_spool=True,
)
