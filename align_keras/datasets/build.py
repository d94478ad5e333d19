"""One function that prepares any of the corpora."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from align_keras.datasets.clipart import Clipart
from align_keras.datasets.emoji import Emoji
from align_keras.datasets.icons import Icons
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.stamps import LANGUAGES, Stamps
from align_keras.datasets.user_pairs import SHORTER_SIDE, UserPairs, user_pairs_config
from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import open_regular, read_json

_BUILDERS = {"icons": Icons, "stamps": Stamps, "clipart": Clipart, "emoji": Emoji}

CORPUS_NAMES = (*_BUILDERS, "pairs")
# File that `align-keras corpus shard` writes: names, sizes and checksums of the shards.
INDEX = "index.json"


def open_corpus(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    pairs: str | os.PathLike | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    encoding: str = "utf-8",
    max_bad_fraction: float = 0.1,
    shorter_side: int | None = None,
    progress: Callable | None = None,
) -> tfds.core.DatasetBuilder | Mixture:
    """Prepares a corpus, or finds it prepared, and returns its builder.

    Args:
        name: str, one of `"icons"`, `"stamps"`, `"clipart"`, `"emoji"` and
            `"pairs"`; `"stamps/de"` and the like choose a language. Several
            joined by `+`, `"pairs"` not among them, make a `Mixture`. Or the folder
            of a data set that TFDS prepared with these features.
        data_dir: str or path where prepared corpora lie; TFDS's own by default.
        pairs: str or path of the user's table or folder, for `"pairs"` only;
            see `align_keras.corpus.pair_files.read_pairs`.
        image_column: str, the table's column of paths, guessed by default.
        caption_column: str, the table's column of captions, guessed by default.
        encoding: str, of the table or the caption files.
        max_bad_fraction: float in [0, 1], a larger share of bad pairs stops the build.
        shorter_side: int, what training needs of larger images, in pixels, or
            None. Those of `"pairs"` are reduced to it, but to no less than 346; a
            folder whose images were reduced to less is refused.
        progress: callable `(done, total)` of images, or None.

    Returns:
        A prepared `tfds.core.DatasetBuilder`, or a `Mixture` of several, of `{"id",
        "image", "captions", "category", "image_key"}`; its `info.metadata` tells what
        was kept and dropped.

    Raises:
        InputError: an unknown name, a missing package, unusable pairs, no room
            in `data_dir`.

    Example:

    ```python
    builder = open_corpus("icons")
    builder.info.splits["test"].num_examples  # 1402
    ```
    """
    remedy = "0.1 allows one bad pair in ten"
    check_number("max_bad_fraction", max_bad_fraction, 0, 1, remedy=remedy)
    options: dict[str, Any] = {
        "data_dir": data_dir,
        "max_bad_fraction": max_bad_fraction,
        "progress": progress,
    }
    if os.path.isfile(os.path.join(name, "dataset_info.json")):
        refuse_damaged(name, whole=False)
        builder = tfds.builder_from_directory(name)
        _check_shorter_side(builder, name, shorter_side)
        return builder
    if "+" in name:
        return _build_mixture(name, pairs, **options)
    corpus, language = _corpus_and_language(name)
    if (corpus == "pairs") != (pairs is not None):
        raise InputError(
            "pairs must be the path of a table or folder for corpus 'pairs', and "
            f"None for others, received {pairs!r} for {name!r}; pass --pairs PATH"
        )
    if pairs is not None:
        config = user_pairs_config(
            pairs,
            image_column=image_column,
            caption_column=caption_column,
            encoding=encoding,
            shorter_side=max(shorter_side or 0, SHORTER_SIDE),
        )
        return _prepare(UserPairs, config=config, **options)
    return _prepare(_BUILDERS[corpus], config=language, **options)


def damaged_shards(folder: str, whole: bool = False) -> list[str]:
    """Names the shards that differ from the index by size, or if `whole`, checksum."""
    index = read_json(os.path.join(folder, INDEX))
    damaged = []
    for shard in index.get("shards", ()):
        path = os.path.join(folder, os.path.basename(shard["file"]))
        try:
            is_equal = os.path.getsize(path) == shard["bytes"]
            if is_equal and whole:
                with open_regular(path) as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                is_equal = digest == shard["sha256"]
        except OSError:
            is_equal = False
        if not is_equal:
            damaged.append(shard["file"])
    return damaged


def refuse_damaged(folder: str, whole: bool = True) -> None:
    """Raises `InputError` if shards aren't as their index has them."""
    names = damaged_shards(folder, whole)
    if names:
        raise InputError(
            f"the corpus {folder} must be as it was built, but {', '.join(names[:5])} "
            f"{'lack or differ' if len(names) > 1 else 'lacks or differs'} from "
            f"{INDEX}; copy it again, or run `align-keras corpus shard`."
        )


def _check_shorter_side(builder: Any, name: str, required_side: int | None) -> None:
    """Raises if `align-keras corpus` has reduced the images to less than that."""
    config = (builder.info.metadata or {}).get("config", {})
    stored = (config.get("images") or config.get("pictures", {})).get("shorter_side")
    if None not in (stored, required_side) and stored < required_side:
        raise InputError(
            f"corpus must be stored with a shorter side of at least {required_side} "
            f"pixels, from which training crops, received {name!r} with {stored}; "
            "build it again with --params_override "
            f"images.shorter_side={required_side}, or train with a smaller image_size."
        )


def _build_mixture(
    name: str,
    pairs: str | os.PathLike | None,
    *,
    progress: Callable | None,
    **options: Any,
) -> Mixture:
    names = name.split("+")
    if "pairs" in names or pairs is not None:
        raise InputError(
            f"a mixture may hold {', '.join(_BUILDERS)}, but not pairs, "
            f"received {name!r} with pairs {pairs!r}; name 'pairs' alone, with all "
            "pairs in one table"
        )
    chosen = {part: _corpus_and_language(part) for part in names}
    if len(set(chosen.values())) < len(names):
        raise InputError(
            f"a mixture must name each corpus once, received {name!r}; leave out "
            "the repeated one"
        )
    members, counted = {}, _continued(progress) if progress else None
    for part, (corpus, language) in chosen.items():
        members[part] = _prepare(
            _BUILDERS[corpus], config=language, progress=counted, **options
        )
    return Mixture(members)


def _continued(progress: Callable[[int, int], object]) -> Callable[[int, int], None]:
    """Lets one `progress` count on through several builds."""
    before = seen = 0

    def counted(done: int, total: int) -> None:
        nonlocal before, seen
        if done == 1:  # A build begins; one that is only opened counts nothing.
            before = seen
        seen = before + done
        progress(seen, before + total)

    return counted


def _corpus_and_language(name: str) -> tuple[str, str | None]:
    corpus, _, language = name.partition("/")
    if corpus not in CORPUS_NAMES or (language and corpus != "stamps"):
        raise InputError(
            f"corpus must be one of {', '.join(CORPUS_NAMES)}, or the folder of a "
            f"built one with its dataset_info.json, received {name!r}; check the name."
        )
    if corpus != "stamps":
        return corpus, None
    language = language or Stamps.DEFAULT_BUILDER_CONFIG_NAME
    check_choice("language of stamps", language, LANGUAGES)
    return corpus, language


def _prepare(construct: Callable, **options: Any) -> Any:
    with quiet():
        builder = construct(**options)
        with _disk_faults_in_one_line(builder.data_dir):
            builder.download_and_prepare()
    return builder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Lets TFDS work without a word."""
    # TFDS's own progress bars would mix with the caller's, and it warns of
    # every configuration that isn't registered.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.ERROR))
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _disk_faults_in_one_line(data_dir: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        import tensorflow as tf  # Here, for whatever writes has loaded it by now.

        if isinstance(error, OSError):
            fault = error.strerror or str(error)
        elif isinstance(error.__cause__, tf.errors.OpError):
            fault = error.__cause__.message.rpartition("; ")[2]
        else:
            raise
        raise InputError(
            f"data_dir {data_dir} can't be written: {fault}; make room there or "
            "pass another --data_dir"
        ) from error
