"""Runs one case per line of standard input and says how it ended.

    python fuzz_worker.py

Case: {"do": "load", "model": "RunConfig", "path": ..., "overrides": [...]}, or
{"do": "command", "module": "agent_skills", "argv": [...]}. Answer: {"code": 0, 1 or 2,
"text": what was said on standard error} or {"error": a traceback}.
"""

import contextlib
import importlib
import io
import json
import os
import pathlib
import resource
import sys
import traceback

TESTS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]

from cycleqd_jax.config import RunConfig, load_config, to_yaml  # noqa: E402
from cycleqd_jax.errors import BadInputError  # noqa: E402
from cycleqd_jax.training.settings import TrainConfig  # noqa: E402

ROOM = 3 << 30  # bytes that a case may take above what the process has at its start


def run_case(case: dict) -> dict:
    """Does what a case asks for, in this process."""
    if case["do"] == "load":
        try:
            model = {"RunConfig": RunConfig, "TrainConfig": TrainConfig}[case["model"]]
            to_yaml(load_config(case["path"], case["overrides"], model))
        except BadInputError as err:
            return {"code": 2, "text": f"Bad input: {err}\n"}
        return {"code": 0, "text": ""}
    module = importlib.import_module(f"experiments.{case['module']}")
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = module.main(case["argv"])
        except SystemExit as err:  # argparse
            code = err.code
    return {"code": code, "text": error.getvalue()}


def limit_memory() -> None:
    """From here on allocations beyond ROOM fail."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """Answers until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not look like an answer
    import jax

    jax.devices()
    limit_memory()
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        try:
            answer = run_case(json.loads(line))
        except BaseException:  # noqa: BLE001 - what a case must not do is told, not done
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
