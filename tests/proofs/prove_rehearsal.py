"""Proves that a rehearsal which is killed ends like one that never was.

    python tests/proofs/prove_rehearsal.py [arguments of experiments.rehearse]

Rehearses once from start to end, then with the same models again, and ends the process
with SIGKILL amid the factorisation, amid the search and amid the comparison, starting
it again each time. At last both bases and both run folders must hold the same bytes.
Exit code 0 if they do.
"""

import os
import pathlib
import sys
import tempfile

import prove_resume
from prove_resume import TESTS, Run, same

sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]

import run_contents  # noqa: E402

CONFIG = TESTS.parent / "experiments" / "configs" / "paper.yaml"
KILLS = {  # what it says just before it is killed -> what it was doing
    r"\d+ of \d+ parameters of the basis": "factorising",
    r"child 2/": "searching",
    r"scaled_merge/.* on optimise": "comparing",
}
NAME = "rehearsal"


def prove(arguments: list[str], folder: pathlib.Path) -> bool:
    """Rehearses, kills and compares below `folder`; whether all is the same."""
    command = ("-m", "experiments.rehearse", "--config", str(CONFIG),
               "--folder", str(folder / "models"), *arguments)  # fmt: skip
    cache = folder / "cache" / "cycleqd_jax" / "bases"
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    whole, killed = (folder / name for name in ("whole", "killed"))
    for place in (whole, killed):
        place.mkdir()
    Run(whole, command).finish()
    want = run_contents.contents(whole / "runs" / NAME)
    (basis,) = cache.glob("*.safetensors")
    content = basis.read_bytes()
    basis.unlink()
    for pattern, doing in KILLS.items():
        run = Run(killed, command)
        if not run.wait_for(pattern) or not run.kill():
            raise SystemExit(f"it never said {pattern}:\n{run.heard[-20:]}")
        print(f"killed while {doing}, after: {run.heard[-1][1][:70]}", flush=True)
    Run(killed, command).finish()
    is_same = basis.read_bytes() == content
    print(f"the basis is {'the same' if is_same else 'NOT the same'}")
    return same(killed, want, f"after {len(KILLS)} kills", NAME) and is_same


def main() -> int:
    """Takes the arguments of the rehearsal; returns the exit code."""
    prove_resume.LIMIT_S = 3600
    with tempfile.TemporaryDirectory() as folder:
        return 0 if prove(sys.argv[1:], pathlib.Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
