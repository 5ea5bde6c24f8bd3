"""Exit codes: the one table that every command keeps."""

from __future__ import annotations

from kdyolo.errors import ConfigError

DONE = 0
FAILED = 1
WRONG_CALL = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

# Code → what it says, as ``kdyolo --help`` lists it. From 128 on they are the shell's: 128 and the signal's number.
EXIT_CODES: dict[int, str] = {
    DONE: "Done.",
    FAILED: "Failed: a file, data set, run or machine is not as needed.",
    WRONG_CALL: "Called wrongly: options or settings; or several mistakes.",
    INTERRUPTED: "Interrupted by Ctrl-C.",
    BROKEN_PIPE: "The reader of the output went away.",
    TERMINATED: "Ended by SIGTERM.",
}


def exit_code(error: BaseException) -> int:
    """The exit code of a command that raised an error."""
    return WRONG_CALL if isinstance(error, ConfigError) else FAILED
