"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that names the file, the row or the key, and says what to do.
    The command line prints it without a traceback and exits with status 2.
    """
