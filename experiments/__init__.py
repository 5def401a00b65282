"""Commands: each module is run with `python -m experiments.NAME`."""

import sys

from cycleqd_jax.reports import ending

if sys.argv[0] == "-m":  # so it is while Python looks for the command
    ending.install()
