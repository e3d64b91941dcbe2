"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that names the file, the row or the key, and says what to do.
    The command line prints it without a traceback and exits with status 2.
    """


class MachineError(RuntimeError):
    """The machine failed, not the input: storage out of reach, a process killed, a full disk.

    The message is one sentence. The command line prints it without a traceback and exits with a
    status of its own, so that launchers retry.
    """
