"""Version of the package."""

import sys


def package_version() -> str:
    """Returns `align_keras.__version__`.

    Lower packages must not import `align_keras`, because it knows all packages.

    Example:

    >>> package_version().split(".")[0]
    '0'
    """
    return str(sys.modules[__name__.partition(".")[0]].__version__)
