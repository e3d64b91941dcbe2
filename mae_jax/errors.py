"""The exceptions that a user is meant to read, and the exit statuses of the command line.

| status | meaning | launchers run the command again |
|---|---|---|
| 0 | done | no |
| 1 | a defect of the program, with its traceback | yes |
| 2 | wrong input (`InputError`): a file, row, key or option is named | no |
| 70 | a training step hung (EX_SOFTWARE); the same command resumes | yes |
| 71 | machine failure (`MachineError`): memory, disk, storage, a killed process | yes |
| 75 | preempted: a launched training saved its state after SIGTERM (EX_TEMPFAIL) | yes |
| 130 | interrupted by Ctrl-C; the same command resumes | no, the user ended it |
| 141 | the reader of the output went away (SIGPIPE) | yes |

Launchers set status 75 with `train --preempted-exit-code`; without it, a preempted training ends
with 0.
"""

import errno
import re
from concurrent.futures import BrokenExecutor

DONE, WRONG_INPUT, INTERRUPTED, BROKEN_PIPE = 0, 2, 130, 141
HANG, MACHINE, PREEMPTED = 70, 71, 75
# Launchers restart after all statuses but `DONE` and these.
FINAL = (WRONG_INPUT, INTERRUPTED)


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that names the file, the row or the key, and says what to do.
    The command line prints it without a traceback and exits with status 2.
    """


class MachineError(RuntimeError):
    """The machine failed, not the input: a killed worker, unreachable storage, a full disk.

    The message is one sentence that names what failed. The command line prints it without a
    traceback and exits with status 71, after which launchers run the command again.
    """


# What the operating system reports when the machine, rather than a path, is at fault.
_MACHINE = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EIO: "the device failed to read or write",
    errno.ENOMEM: "memory is exhausted",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open on this machine",
    errno.ESTALE: "the network file system lost the file",
    errno.ETIMEDOUT: "the connection timed out",
    errno.ECONNRESET: "the connection was reset",
    errno.ECONNREFUSED: "the connection was refused",
    errno.EHOSTUNREACH: "the host is unreachable",
    errno.ENETUNREACH: "the network is unreachable",
    errno.EAGAIN: "a resource is temporarily exhausted",
}


def machine_failure_message(error: BaseException) -> str | None:
    """One sentence if `error`, or an error that it came from, is a machine failure."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, MachineError):
            return str(current)
        if isinstance(current, OSError) and current.errno in _MACHINE:
            name = f"{current.filename}: " if current.filename else ""
            return f"{name}{_MACHINE[current.errno]}."
        if isinstance(current, ConnectionError | TimeoutError):
            return f"{current}: storage or another process is out of reach.".lstrip(": ")
        if isinstance(current, BrokenExecutor):
            return "a worker process was killed, probably for lack of memory; use fewer workers."
        if isinstance(current, MemoryError):
            return "memory is exhausted; use a smaller batch or fewer workers."
        text = str(current)
        if "RESOURCE_EXHAUSTED" in text:  # XLA and orbax report by text alone
            return f"{text.splitlines()[0][:200]}; use a smaller batch, or shard the model."
        if "No space left on device" in text:
            return "no space is left on the device."
        current = current.__cause__ or current.__context__
    return None


# A password in a URL (scheme://user:password@host), and the parameters that sign a URL.
_PASSWORD = re.compile(r"(://)[^/\s@'\"]+@")
_SIGNATURE = re.compile(
    r"([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|AWSAccessKeyId|Signature|sig|token|access_token|api_key)=)[^&\s'\"#]+",
    re.IGNORECASE,
)


def redact_credentials(text: str) -> str:
    """`text` with the passwords and signatures of all URLs in it replaced by `***`."""
    return _SIGNATURE.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))
