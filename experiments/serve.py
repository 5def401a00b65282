"""Serves the individuals of a run by an OpenAI-compatible endpoint.

    python -m experiments.serve RUN [--host 127.0.0.1 --port 8000] [key=value ...]

Needs the extra `serve`.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files.overrides import from_overrides
from cycleqd_jax.reports import console
from cycleqd_jax.runs.opened import OpenedRun, open_run

KEY = "CYCLEQD_API_KEY"


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and serves; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.serve",
        description="Serve every individual of a run, finished or not, by an "
        "OpenAI-compatible endpoint.",
    )
    add_options(parser)
    args = parser.parse_intermixed_args(argv)
    return console.guarded(
        lambda: start(args), interrupted="The run is as it was; start it again."
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that `start` takes."""
    parser.add_argument(
        "run",
        type=console.path,
        help="run folder, like runs/quickstart, or the URL of its mirror",
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (8000); 0 takes a free one")
    parser.add_argument(
        "--base-model",
        type=console.path,
        metavar="PATH",
        help="where the run's base model is, if the run was made on another machine",
    )
    parser.add_argument(
        "--tokenizer-to",
        type=console.path,
        metavar="FOLDER",
        help="first write the model's tokeniser there, as lm-evaluation-harness wants",
    )
    parser.add_argument(
        "--no-warm-up",
        action="store_true",
        help="compile no program before a request needs it",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings, like engine.slots=32 or max_waiting=64",
    )


def start(
    args: argparse.Namespace,
    extra_routes_of: Callable[[OpenedRun], Sequence] | None = None,
) -> int:
    """Serves until a signal comes; returns the exit code.

    Args:
      args: of `add_options`.
      extra_routes_of: makes further routes, of Starlette, for the run.

    Raises:
      BadInputError: a setting or the run is wrong, or the extra is not installed.
    """
    console.set_up_process()
    try:
        from cycleqd_jax.serving import server, settings
    except ImportError as err:
        raise BadInputError(
            f"serve: {err.name} cannot be imported; install it with pip install "
            "'cycleqd-jax[serve]'."
        ) from err
    given = {"host": args.host, "port": args.port, "base_model": args.base_model}
    given["warm_up"] = False if args.no_warm_up else None
    options = [f"{k}={json.dumps(v)}" for k, v in given.items() if v is not None]
    chosen = from_overrides([*args.settings, *options], settings.ServeSettings)
    if chosen.api_key is None and os.environ.get(KEY):
        chosen = chosen.model_copy(update={"api_key": os.environ[KEY]})
    with server.listen(chosen) as listener, console.ConsoleObserver() as observer:
        from cycleqd_jax.serving import app  # takes seconds; the address comes first

        opened = open_run(args.run)
        routes = extra_routes_of(opened) if extra_routes_of else ()
        served = app.make_app(opened, chosen, routes, observer)
        if args.tokenizer_to:
            folder = pathlib.Path(args.tokenizer_to)
            folder.mkdir(parents=True, exist_ok=True)
            served.state.desk.engine.tokenizer.save(folder)
        count = len(served.state.catalogue.models())
        address = f"http://{_shown(listener.getsockname())}"
        observer.note(f"serving {count} models of {opened.path} at {address}/v1")
        if chosen.warm_up:
            observer.note(
                "compiling programs while nobody asks, for the next start too"
            )
        if not chosen.is_local and chosen.api_key is None:
            observer.note(f"anyone who reaches this address may ask; {KEY} sets a key")
        server.make_server(served).run(sockets=[listener])
    return console.DONE


def _shown(address: Sequence) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
