"""Distinction between deleted files of an index and files that are only unreachable.

A disk that is not mounted, a network that is down or a folder without read permission
must not empty an index. A file therefore counts as deleted only if its folder exists,
can be listed and does not contain the file.
"""

import errno
import os
import stat
from typing import NamedTuple

# Errors for a path if a part of it is missing, or is a file instead of a folder.
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class Obstacle(NamedTuple):
    """Problem of a folder that prevents the check whether a file still exists.

    Attributes:
        folder: bytes, path of the folder.
        problem: str, description such as "is empty", for use after the path.
    """

    folder: bytes
    problem: str


class Reachability:
    """Check whether files were deleted. It caches its results for folders."""

    def __init__(self) -> None:
        self._folders: dict[bytes, Obstacle | None] = {}

    def obstacle(self, file: bytes) -> Obstacle | None:
        """Returns why a file cannot be checked, or None if the file was deleted.

        Args:
            file: bytes, absolute path of a file of the index that a scan of its source
                did not list.
        """
        try:
            is_link = stat.S_ISLNK(os.lstat(file).st_mode)
        except OSError as error:
            return self._obstacle_of_error(file, error)
        except ValueError:  # A path that contains NUL cannot exist.
            return None
        if not is_link:
            return None
        target = os.path.realpath(file)
        try:
            os.stat(target)
        except OSError as error:
            return self._obstacle_of_error(target, error)
        return None

    def _obstacle_of_error(self, file: bytes, error: OSError) -> Obstacle | None:
        """Returns the obstacle for a file whose status cannot be read."""
        folder = os.path.dirname(file)
        if error.errno not in _ABSENT:
            return Obstacle(folder, f"can't be reached ({error.strerror})")
        return self._folder_obstacle(folder)

    def _folder_obstacle(self, folder: bytes) -> Obstacle | None:
        """Returns the obstacle of a folder, or of its nearest existing parent."""
        if folder in self._folders:
            return self._folders[folder]
        obstacle: Obstacle | None = None
        try:
            with os.scandir(folder) as entries:
                if next(entries, None) is None:
                    obstacle = Obstacle(folder, "is empty")
        except OSError as error:
            parent = os.path.dirname(folder)
            if error.errno not in _ABSENT:
                obstacle = Obstacle(folder, f"can't be listed ({error.strerror})")
            elif parent != folder:
                obstacle = self._folder_obstacle(parent)
        self._folders[folder] = obstacle
        return obstacle
