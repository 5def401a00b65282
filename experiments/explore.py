"""Serves the explorer of a run: its report's page, with a chat with every individual.

    python -m experiments.explore RUN [--host 127.0.0.1 --port 8000] [key=value ...]

The page is at the address that is printed, the endpoint of `experiments.serve` below
/v1. Needs the extra `serve`.
"""

import argparse
import sys
from collections.abc import Sequence

from cycleqd_jax.reports import console
from cycleqd_jax.runs.opened import OpenedRun
from experiments import serve


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and serves; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.explore",
        description="Serve the explorer page of a run, finished or in progress, and "
        "the endpoint that its chat asks.",
    )
    serve.add_options(parser)
    args = parser.parse_intermixed_args(argv)
    return console.guarded(
        lambda: serve.start(args, _routes),
        interrupted="The run is as it was; start it again.",
    )


def _routes(opened: OpenedRun) -> Sequence:
    from cycleqd_jax.serving.explore import explorer_routes  # needs the extra

    return explorer_routes(opened)


if __name__ == "__main__":
    sys.exit(main())
