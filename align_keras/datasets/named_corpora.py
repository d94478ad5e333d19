"""Opens and prepares corpora by their names."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from align_keras.corpus.shard_folder import INDEX
from align_keras.datasets.grouped_pairs import GroupedPairs, ThreeSplitPairs
from align_keras.datasets.icons import Icons
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.pair_builder import quiet
from align_keras.datasets.prepared_pairs import (
    PreparedPairs,
    is_prepared,
    prepared_pairs_config,
)
from align_keras.datasets.selected_pairs import SelectedPairs
from align_keras.datasets.stamps import LANGUAGES, Stamps
from align_keras.datasets.user_pairs import SHORTER_SIDE, UserPairs, user_pairs_config
from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import open_regular, read_json

CORPUS_NAMES = ("icons", "stamps", "pairs")
# Builder of the corpus `pairs` for each value of `split_by`.
_BUILDERS: dict[str, type[UserPairs]] = {
    "image": UserPairs,
    "image_and_caption": GroupedPairs,
    "image_with_validation": ThreeSplitPairs,
}


def open_corpus(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    pairs: str | os.PathLike | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    caption_sources: Sequence[str] | None = None,
    encoding: str = "utf-8",
    max_bad_fraction: float = 0.1,
    shorter_side: int | None = None,
    split_by: str = "image",
    where: str | None = None,
    repeats: Mapping[str, float] | None = None,
    progress: Callable | None = None,
) -> tfds.core.DatasetBuilder | Mixture | SelectedPairs:
    """Prepares a corpus if needed and returns its builder.

    Args:
        name: `"icons"`, `"stamps"`, `"pairs"`, or the folder of a corpus that
            `align-keras corpus` built. `"stamps/de"` selects a language of the stamps.
            A folder of `PreparedPairs` is also valid. Several names of `"icons"`,
            stamps and folders of `PreparedPairs`, joined by `+`, form a `Mixture`.
        data_dir: folder of the prepared corpora. Defaults to the folder of
            TFDS.
        pairs: str or path of the user's table or folder, only for `"pairs"`. See
            `align_keras.corpus.pair_files.read_pairs`.
        image_column: column of the image paths. By default it is detected by its
            name.
        caption_column: column of the captions. By default it is detected by its
            name.
        caption_sources: names of the sources of captions in the table, or None. See
            `align_keras.corpus.pair_files.read_pairs`.
        encoding: encoding of the table or of the caption files.
        max_bad_fraction: float in [0, 1]. The build fails if a larger fraction of the
            pairs is bad.
        shorter_side: the shorter side in pixels that training needs, or None. The
            images of `"pairs"` are stored with this size, but with no less than 346. A
            folder with smaller images raises an error.
        split_by: `"image"` for the splits `train` and `test` of `"pairs"`, or
            `"image_and_caption"` for the splits of `GroupedPairs`, or
            `"image_with_validation"` for those of `ThreeSplitPairs`.
        where: condition on the scores of `align-keras corpus score` that selects
            the pairs of a corpus, such as `"similarity > 0.2"`, or None for all pairs.
            It requires the folder of the shards as `name`.
        repeats: dict from the name of a corpus in a mixture to the number of times that
            an epoch of training contains its pairs, such as `{"icons": 2}`, or None for
            once each.
        progress: callable that receives the number of finished images and their total,
            or None.

    Returns:
        A prepared `tfds.core.DatasetBuilder`, a `Mixture` of several, or the
        `SelectedPairs` of a corpus. Its examples have `"id"`, `"image"`, `"captions"`,
        `"category"` and `"image_key"`. Its `info.metadata` has the numbers of kept and
        dropped pairs. That of a `Mixture` is a dict from the name of a corpus to them.

    Raises:
        InputError: If the name is unknown, a package is missing, the pairs can't be
            used, or `where` is set for a corpus without scores.

    Example:

    ```python
    builder = open_corpus("pairs", pairs="pairs.csv")
    sorted(builder.info.splits)  # ['test', 'train']
    ```
    """
    remedy = "For example, 0.1 allows one bad pair in ten."
    check_number("max_bad_fraction", max_bad_fraction, 0, 1, remedy=remedy)
    options: dict[str, Any] = {
        "data_dir": data_dir,
        "max_bad_fraction": max_bad_fraction,
        "progress": progress,
    }
    is_folder = os.path.isfile(os.path.join(name, "dataset_info.json"))
    if is_folder:
        refuse_damaged(name, whole=False)
        builder = tfds.builder_from_directory(name)
        _check_shorter_side(builder, name, shorter_side)
        return builder if where is None else SelectedPairs(builder, where)
    if where is not None:
        raise InputError(
            "where must be None unless the corpus is a folder of shards that "
            f"`align-keras corpus` wrote. Received: where={where!r} for corpus "
            f"{name!r}. Leave it out, or pass the folder of the shards."
        )
    if (name == "pairs") != (pairs is not None):
        raise InputError(
            "pairs must be the path of a table or folder for corpus 'pairs', and None "
            f"for all other corpora. Received: pairs={pairs!r} for corpus {name!r}."
        )
    if "+" in name:
        return _build_mixture(name, repeats=repeats, **options)
    check_choice("split_by", split_by, tuple(_BUILDERS))
    if pairs is not None:
        # The name of a configuration without this option must not change.
        reading = {} if not caption_sources else {"caption_sources": [*caption_sources]}
        config = user_pairs_config(
            pairs,
            **reading,
            image_column=image_column,
            caption_column=caption_column,
            encoding=encoding,
            shorter_side=max(shorter_side or 0, SHORTER_SIDE),
        )
        return _prepare(_BUILDERS[split_by], config, **options)
    return _prepare(*_builder_and_config(name), **options)


def damaged_shards(folder: str, whole: bool = False) -> list[str]:
    """Returns the names of the shards that differ from `index.json`.

    Args:
        folder: folder of the shards. If it has no index, nothing is compared.
        whole: whether to compare checksums as well as sizes.
    """
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
    """Raises `InputError` if shards are missing or differ from `index.json`."""
    names = damaged_shards(folder, whole)
    if names:
        problem = "are missing or differ" if len(names) > 1 else "is missing or differs"
        raise InputError(
            f"The shards of corpus {folder} must match {INDEX}, but "
            f"{', '.join(names[:5])} {problem}. Copy the corpus again, or run "
            "`align-keras corpus shard`."
        )


def _check_shorter_side(builder: Any, name: str, required_side: int | None) -> None:
    """Raises if `align-keras corpus` stored smaller images than training needs."""
    config = (builder.info.metadata or {}).get("config", {})
    stored = config.get("images", {}).get("shorter_side")
    if None not in (stored, required_side) and stored < required_side:
        raise InputError(
            "The images of a corpus must have a shorter side of at least "
            f"{required_side} pixels, because training crops them. Received: "
            f"{name!r} with {stored} pixels. Build the corpus again with "
            f"--params_override images.shorter_side={required_side}, or train with a "
            "smaller image_size."
        )


def _build_mixture(
    name: str,
    *,
    repeats: Mapping[str, float] | None,
    progress: Callable | None,
    **options: Any,
) -> Mixture:
    corpora = {part: _builder_and_config(part) for part in name.split("+")}
    members, report_progress = {}, _continued(progress) if progress else None
    for part, (builder_class, config) in corpora.items():
        members[part] = _prepare(
            builder_class, config, progress=report_progress, **options
        )
    return Mixture(members, repeats=repeats)


def _continued(progress: Callable[[int, int], object]) -> Callable[[int, int], None]:
    """Returns a progress callback that adds up the images of several builds."""
    before = seen = 0

    def report_progress(done: int, total: int) -> None:
        nonlocal before, seen
        # The count has restarted, so a new build has begun. Prepared corpora report no
        # progress.
        if done == 1:
            before = seen
        seen = before + done
        progress(seen, before + total)

    return report_progress


def _builder_and_config(name: str) -> tuple[Callable, Any]:
    """Returns the builder class of a corpus and its configuration."""
    if is_prepared(name):
        return PreparedPairs, prepared_pairs_config(name)
    corpus, _, language = name.partition("/")
    if name == "icons":
        return Icons, None
    if corpus == "stamps":
        language = language or Stamps.DEFAULT_BUILDER_CONFIG_NAME
        check_choice("The language of stamps", language, LANGUAGES)
        return Stamps, language
    raise InputError(
        f"corpus must be one of {', '.join(CORPUS_NAMES)}, or a folder with "
        f"dataset_info.json or pairs.jsonl. Received: corpus={name!r}. Check the name, "
        "or write drawings with `python -m tools.make_drawings`."
    )


def _prepare(builder_class: Callable, config: Any, **options: Any) -> Any:
    with quiet():
        builder = builder_class(config=config, **options)
        with _disk_errors_as_input_errors(builder.data_dir):
            builder.download_and_prepare()
    return builder


@contextlib.contextmanager
def _disk_errors_as_input_errors(data_dir: str | os.PathLike) -> Iterator[None]:
    """Converts TensorFlow's errors while writing to `data_dir` to an `InputError`."""
    try:
        yield
    except RuntimeError as error:
        # TensorFlow is already loaded at this point, so this import is fast.
        import tensorflow as tf

        if not isinstance(error.__cause__, tf.errors.OpError):
            raise
        problem = error.__cause__.message.rpartition("; ")[2]
        raise InputError(
            f"data_dir must be writable. Received: data_dir={data_dir} ({problem})."
        ) from error
