"""The exceptions a caller may meet, by what they should do about them.

`BadInputError` is the caller's to mend and ends a command with exit code 2;
`RunError` and its kinds stop a run that can be resumed and end it with exit code 1.
Each message is one sentence: the name, what was expected, what came, what to do.
"""

_LONGEST = 1000  # characters of a message


class CycleQDError(Exception):
    """Base of all errors that this library raises on purpose.

    Its text is one line without control characters, shortened in its middle, whatever
    a damaged file put into it.
    """

    def __str__(self) -> str:
        text = " ".join(super().__str__().split())
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        return text if len(text) <= _LONGEST else f"{text[:700]} ... {text[-250:]}"


class BadInputError(CycleQDError, ValueError):
    """A setting, file or argument is wrong; nothing was started or changed."""


class MissingDataError(BadInputError):
    """Data of a benchmark are not on this machine; the message says how to get them."""


class RunError(CycleQDError, RuntimeError):
    """A run cannot go on; what was done so far is kept and can be resumed."""


class SandboxError(RunError):
    """The sandbox itself failed; says nothing about the program run in it."""
