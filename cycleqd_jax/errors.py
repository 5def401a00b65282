"""The exceptions a caller may meet, by what they should do about them.

`BadInputError` is the caller's to mend and ends a command with exit code 2;
`RunError` and its kinds stop a run that can be resumed and end it with exit code 1.
Each message is one sentence: the name, what was expected, what came, what to do.
"""


class CycleQDError(Exception):
    """Base of all errors that this library raises on purpose."""


class BadInputError(CycleQDError, ValueError):
    """A setting, file or argument is wrong; nothing was started or changed."""


class RunError(CycleQDError, RuntimeError):
    """A run cannot go on; what was done so far is kept and can be resumed."""


class SandboxError(RunError):
    """The sandbox itself failed; says nothing about the program run in it."""
