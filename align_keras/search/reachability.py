"""Which files of an index are gone, and which merely can't be reached.

A disk that isn't mounted, a network that is down and a folder without permission must
not empty an index. So a file is gone only if its folder is there, can be listed, and
doesn't have it.
"""

import errno
import os
import stat

# A path of which a part is missing, or is a file.
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class Reachability:
    """Decides whether files that a walk hasn't seen are gone. Remembers folders."""

    def __init__(self):
        self._folders: dict[bytes, tuple[bytes, str] | None] = {}

    def obstacle(self, file: bytes) -> tuple[bytes, str] | None:
        """Returns what keeps a file from being looked at, or None if it is gone.

        Args:
            file: absolute path of a file that wasn't seen.

        Returns:
            None, or (folder, problem): the folder, and what to say of it.
        """
        try:
            is_link = stat.S_ISLNK(os.lstat(file).st_mode)
        except OSError as error:
            if error.errno not in _ABSENT:
                return os.path.dirname(file), f"can't be reached ({error.strerror})"
            return self._folder_obstacle(os.path.dirname(file))
        except ValueError:  # A name with NUL, which no file has.
            return None
        return self._target_obstacle(os.path.realpath(file)) if is_link else None

    def _target_obstacle(self, target):
        """As `obstacle`, of what a link points to."""
        try:
            os.stat(target)
        except OSError as error:
            if error.errno not in _ABSENT:
                return os.path.dirname(target), f"can't be reached ({error.strerror})"
            return self._folder_obstacle(os.path.dirname(target))
        return None

    def _folder_obstacle(self, folder):
        """What is wrong with a folder, or the nearest above it that is there."""
        if folder in self._folders:
            return self._folders[folder]
        problem: tuple[bytes, str] | None = None
        try:
            with os.scandir(folder) as entries:
                if next(entries, None) is None:
                    problem = folder, "is empty"
        except OSError as error:
            above = os.path.dirname(folder)
            if error.errno not in _ABSENT:
                problem = folder, f"can't be listed ({error.strerror})"
            elif above != folder:
                problem = self._folder_obstacle(above)
        self._folders[folder] = problem
        return problem
