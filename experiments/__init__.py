"""Commands: each module is run with `python -m experiments.NAME`."""

import _signal
import posix
import sys


def _end(number: int, frame: object) -> None:
    """Ends the process while even `ending` is only being imported."""
    posix.write(2, b"\nEnded by a signal.\n")
    posix._exit(128 + number)


if sys.argv[0] == "-m":  # so it is while Python looks for the command
    for _number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        if _signal.getsignal(_number) != _signal.SIG_IGN:
            _signal.signal(_number, _end)

    from cycleqd_jax.reports import ending

    ending.install()
