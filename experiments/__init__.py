"""Commands: each module is run with `python -m experiments.NAME`."""
