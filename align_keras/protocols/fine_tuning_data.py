"""What the protocols that train learn from and are judged on."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from align_keras.data import unreadable_rows
from align_keras.protocols import evaluation_data
from align_keras.protocols.embedding_cache import content_digest
from align_keras.protocols.evaluation_data import joined
from align_keras.protocols.evaluation_splits import is_class_folder, split_of_classes
from align_keras.protocols.unprepared_sets import what_to_prepare
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

# Names of unreadable pictures that are told.
_NAMED = 5


class ClassificationData:
    """The two splits of a set of pictures with classes.

    Args:
        request: `DataRequest`.
    """

    def __init__(self, request):
        self._request = request
        self._read = {}

    def __getstate__(self):
        # Another process reads the data itself, and slices nothing.
        request = dataclasses.replace(self._request, metadata=None)
        return {"_request": request, "_read": {}}

    def read(self, task, split):
        """Returns the `LabelledImages` of `"train"` or `"test"`."""
        del task
        if split not in self._read:
            self._read[split] = evaluation_data.labelled_images(
                self._request, train=split == "train"
            )
        return self._read[split]

    def check(self):
        """Raises unless the splits are apart and have the same classes.

        Returns:
            int, training pictures that can't be decoded, if they are files.
        """
        train, test = evaluation_data.train_and_test(self._request)
        self._read = {"train": train, "test": test}
        if not isinstance(next(iter(train.images), None), str | os.PathLike):
            return 0
        lost = unreadable_rows(train.images)
        if lost:
            names = [str(train.images[row]) for row in lost[:_NAMED]]
            say(
                f"{len(lost)} of {len(train.images)} training pictures can't be "
                f"decoded and are left out: {', '.join(names)}"
                f"{', …' if len(lost) > _NAMED else ''}"
            )
        return len(lost)

    def identity(self, task):
        """What tells the data apart: digests of both splits, and a set's version."""
        del task
        request, digests = self._request, []
        for split in ("train", "test"):
            digests += [
                str(split_of_classes(request, train=split == "train")),
                digest_of(self.read("", split)),
            ]
        if request.name == "stamps" or is_class_folder(request.name):
            return [request.name, *digests]
        # Its pictures may be larger than memory, and aren't hashed.
        return [_full_name(request.name), *digests]


class VtabData:
    """The tasks of VTAB.

    Args:
        request: `DataRequest`.
    """

    def __init__(self, request):
        self._request, self._last = request, (None, None)

    def read(self, task, split):
        """Returns the `LabelledImages` of a task's split; keeps the last one."""
        from align_keras.datasets.benchmarks.vtab import read_vtab

        if self._last[0] != (task, split):
            self._last = ((task, split), read_vtab(task, split))
        return self._last[1]

    def check(self, tasks):
        """Raises unless all tasks' data sets are prepared; names those that aren't."""
        from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

        needs = what_to_prepare(VTAB_TASKS[task].builder for task in tasks)
        if needs:
            raise InputError(
                f"vtab needs data sets that TFDS hasn't prepared: {needs}; or name the "
                "tasks that are there, such as --data vtab/dtd+svhn_cropped."
            )

    def metadata_columns(self):
        """Returns the names of the columns of `--metadata`."""
        from align_keras.datasets.benchmarks import read_metadata

        path = self._request.metadata
        return () if path is None else read_metadata(path).names

    def judged_pictures(self, task):
        """Returns the `LabelledImages` of a task's test, with `--metadata`'s columns.

        The pictures' ids are the task and their numbers: `dtd/0`.
        """
        data = self.read(task, "test")
        return joined(data, self._request, taken=("class",), prefix=f"{task}/")

    def identity(self, task):
        """What tells the data apart from other data: the set's name and version."""
        from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

        return _full_name(VTAB_TASKS[task].builder)


def _full_name(name):
    """A TFDS set's name, configuration and version."""
    from align_keras.datasets.benchmarks.labelled_images import prepared_builder

    return prepared_builder(name).info.full_name


def digest_of(data):
    """Returns a digest of pictures with classes.

    Of files, the size and the time of the last change count, not the content; of
    pictures that are read from disk at each iteration, the classes alone.
    """
    digest = hashlib.sha256("\0".join(data.class_names).encode())
    digest.update(np.asarray(data.labels, "int64").tobytes())
    for image in data.images if isinstance(data.images, Sequence) else ():
        if isinstance(image, str | os.PathLike):
            digest.update(os.fspath(image).encode())
            if os.path.exists(image):
                about = os.stat(image)
                digest.update(f"\0{about.st_size} {about.st_mtime_ns}\n".encode())
        else:
            digest.update(content_digest(image))
    return digest.hexdigest()[:16]
