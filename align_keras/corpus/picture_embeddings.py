"""Pictures' embeddings, written to a file that is mapped, not read."""

import itertools

import numpy as np

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path


def write_embeddings(path, pictures, encode, count, *, batch_size=64, dtype="float16"):
    """Embeds pictures batch by batch into a `.npy` file.

    The file appears under its name when it is complete.

    Args:
        path: str or path of the file.
        pictures: iterable of `count` pictures, in whatever form `encode` takes them,
            such as `PIL.Image.Image`.
        encode: callable, a list of pictures → float array (pictures, d).
        count: int, how many pictures there are.
        batch_size: int, how many `encode` gets at once.
        dtype: `"float16"` or `"float32"`, how numbers are stored. Rounding to
            float16 changes a cosine by about 1e-5.

    Returns:
        float array (count, d), memory-mapped, read-only. Without pictures (0, 0).

    Raises:
        InputError: if there aren't `count` pictures, or `encode` returns another
            shape or numbers that aren't finite as `dtype`.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "embeddings.npy")
    >>> means = lambda batch: np.array([[own.mean(), own.std()] for own in batch])
    >>> write_embeddings(path, [np.arange(3), np.arange(5)], means, 2).shape
    (2, 2)
    """
    with atomic_path(path) as temporary:
        _fill(temporary, iter(pictures), encode, count, batch_size, dtype)
    # What is empty can't be mapped.
    return np.load(path, mmap_mode="r" if count else None)


def _fill(path, pictures, encode, count, batch_size, dtype):
    stored, done = None, 0
    while batch := list(itertools.islice(pictures, batch_size)):
        rows = np.asarray(encode(batch))
        width = None if stored is None else stored.shape[1]
        fits = rows.ndim == 2 and len(rows) == len(batch)
        if not fits or width not in (None, rows.shape[1]):
            raise InputError(
                f"encode must return an array ({len(batch)}, {width or 'dimensions'}) "
                f"of {len(batch)} pictures, received {rows.shape}; pool its output to "
                "one row a picture."
            )
        with np.errstate(over="ignore"):
            rows = rows.astype(dtype)
        if not np.isfinite(rows).all():
            raise InputError(
                f"encode must return finite numbers that {dtype} holds, received NaN "
                "or infinity; check the encoder, or store float32."
            )
        if stored is None:
            shape = (count, rows.shape[1])
            stored = np.lib.format.open_memmap(path, "w+", dtype, shape)
        stored[done : done + len(rows)] = rows[: count - done]
        done += len(rows)
        if done > count:
            break
    if done != count:
        raise InputError(
            f"count must be the number of pictures, received {count:,}, but there are "
            f"{'more' if done > count else f'{done:,}'}; count them anew."
        )
    if stored is None:
        with path.open("wb") as file:
            np.save(file, np.empty((0, 0), dtype))
    else:
        stored.flush()
