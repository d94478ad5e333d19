"""The one exception that a user's mistake raises."""


class InputError(ValueError):
    """A mistake in what the user gave: an argument, a file, a configuration.

    The message is one line that names the argument, the rule, what was
    received and the remedy. The command line prints it without a traceback
    and exits with code 1; in Python it is an ordinary `ValueError`.
    """
