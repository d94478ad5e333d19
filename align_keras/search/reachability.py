"""Decides which files of an index are gone, and which can't be reached at the moment.

A disk that isn't mounted, a network that is down and a folder without permission must
not empty an index. So a file is gone only if its folder exists, can be listed, and
doesn't contain the file.
"""

import errno
import os
import stat
from typing import NamedTuple

# Errors of a path of which a part is missing or is a file.
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class Obstacle(NamedTuple):
    """Reason for which a file can't be checked.

    Attributes:
        folder: bytes, the folder with the problem.
        problem: str, a predicate such as "is empty".
    """

    folder: bytes
    problem: str


class Reachability:
    """Decides whether files that a walk hasn't seen are gone. Caches folders."""

    def __init__(self) -> None:
        self._folders: dict[bytes, Obstacle | None] = {}

    def obstacle(self, file: bytes) -> Obstacle | None:
        """Returns the reason for which a file can't be checked, or None if it is gone.

        Args:
            file: absolute path of a file that wasn't seen.
        """
        try:
            is_link = stat.S_ISLNK(os.lstat(file).st_mode)
        except OSError as error:
            return self._obstacle_of_error(file, error)
        except ValueError:  # A name with NUL, which no file has.
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
        """Returns the obstacle of a file whose status can't be read."""
        folder = os.path.dirname(file)
        if error.errno not in _ABSENT:
            return Obstacle(folder, f"can't be reached ({error.strerror})")
        return self._folder_obstacle(folder)

    def _folder_obstacle(self, folder: bytes) -> Obstacle | None:
        """Returns the obstacle in a folder or in the nearest existing folder above."""
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
