"""Which data sets of TFDS are still to be prepared, and how."""

from align_keras.utils.errors import InputError


def what_to_prepare(names):
    """Says what to run for those data sets of TFDS that aren't prepared.

    Args:
        names: iterable of str, as `prepared_builder` takes them.

    Returns:
        str without a full stop, empty where all are there. Of several sets, those
        whose files must be downloaded by hand are named apart.
    """
    import tensorflow_datasets as tfds

    from align_keras.datasets import benchmarks

    names, lacking = list(dict.fromkeys(names)), {}
    for name in names:
        try:
            benchmarks.prepared_builder(name)
        except InputError as error:
            lacking[name] = str(error).rstrip(".")
    if len(lacking) <= 1:
        return "".join(lacking.values())
    by_hand = [
        name
        for name in lacking
        if tfds.builder_cls(name.partition("/")[0]).MANUAL_DOWNLOAD_INSTRUCTIONS
    ]
    text = f"{len(lacking)} of {len(names)} data sets aren't prepared; run "
    text += f"tfds build {' '.join(lacking)}, or set TFDS_DATA_DIR to where they lie"
    if by_hand:
        text += (
            f"; the files of {' and '.join(by_hand)} must be downloaded by hand before "
            "(tfds build says where)"
        )
    return text
