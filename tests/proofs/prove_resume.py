"""Proves that a run which is killed again and again ends like one that never was.

    python tests/proofs/prove_resume.py [--kills 50] [--seed 0] [--keep FOLDER]

Makes a small world, runs it once from start to end, then runs it again and ends the
process with SIGKILL at random moments, resuming each time: while it starts, while it
searches, as soon as it writes a file of a batch or a checkpoint, while it compares and
reports. At last both run folders must hold the same bytes. Exit code 0 if they do.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import queue
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

TESTS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]

import run_contents  # noqa: E402
import toy_world  # noqa: E402

from cycleqd_jax.progress import SEARCHING  # noqa: E402
from cycleqd_jax.runs.folder import PARTS  # noqa: E402

COMMAND = ("-m", "experiments.agent_skills", "--config", "toy.yaml", "--resume")
SHARES = {"start": 0.2, "search": 0.35, "write": 0.25, "end": 0.2}
LIMIT_S = 600  # for one process
TRIES = 5  # for one kill, should the process end before it


class Kill(NamedTuple):
    """When to kill: `kind` of SHARES; `after` is a child, or -1; `u` is in [0, 1]."""

    kind: str
    after: int
    u: float


class Times(NamedTuple):
    """Seconds of an uninterrupted run: until the search, per batch, after it."""

    start: float
    batch: float
    end: float


class Run:
    """One process of a command; `heard` is what it has said so far."""

    def __init__(self, folder: pathlib.Path, command: tuple[str, ...] = COMMAND):
        paths = [
            str(TESTS / "support"),
            str(TESTS.parent),
            os.environ.get("PYTHONPATH", ""),
        ]
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-u", *command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.heard: list[tuple[float, str]] = []
        self._lines: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put((time.monotonic() - self.begun, line.strip()))
        self._lines.put(None)

    def wait_for(self, pattern: str, timeout_s: float = LIMIT_S) -> bool:
        """Reads until a line matches; False if the process or the time ends first."""
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                return False
            self.heard.append(line)
            if re.search(pattern, line[1]):
                return True
        return False

    def wait_for_child(self, child: int) -> bool:
        """Until so many children are done."""
        while self.wait_for(r"child \d+/|on validate"):
            found = re.search(r"child (\d+)/", self.heard[-1][1])
            if found is None or int(found[1]) >= child:
                return True
        return False

    def finish(self) -> None:
        """Waits for an end that must be a good one."""
        self.wait_for("(?!)")
        if self.process.wait(timeout=10) != 0:
            said = "\n".join(text for _, text in self.heard[-20:])
            raise SystemExit(f"exit code {self.process.returncode}:\n{said}")

    def kill(self) -> bool:
        """Kills; whether there was something to kill."""
        self.process.kill()
        killed = self.process.wait() < 0
        self.wait_for("(?!)", 5)
        return killed


def plan_kills(count: int, children: int, rng: random.Random) -> list[Kill]:
    """The kills in the order of their place in the run."""
    kinds = rng.choices(list(SHARES), weights=list(SHARES.values()), k=count)
    found = []
    for kind in kinds:
        place = rng.random()
        if kind == "start":
            found.append((place, Kill(kind, -1, rng.random())))
        elif kind == "end":
            found.append((1.0, Kill(kind, children, rng.random())))
        else:
            child = int(place * (children - 2)) + 1
            found.append((child / children, Kill(kind, child, rng.random())))
    return [kill for _, kill in sorted(found, key=lambda item: item[0])]


def wait_for_write(run: Run, folder: pathlib.Path) -> None:
    """Until the process writes a file of a batch or a checkpoint, or ends."""
    until = time.monotonic() + LIMIT_S
    names = [folder / name for name in ("checkpoints", *PARTS)]
    while run.process.poll() is None and time.monotonic() < until:
        for name in names:
            with contextlib.suppress(OSError):
                if any(entry.startswith(".") for entry in os.listdir(name)):
                    return
        time.sleep(0.0002)


def strike(kill: Kill, times: Times, folder: pathlib.Path) -> tuple[bool, float, str]:
    """Starts or resumes the run and kills it; whether it was hit, when, and where."""
    run = Run(folder)
    if kill.kind == "start":
        run.wait_for("(?!)", kill.u * times.start)
    elif kill.kind == "end":
        # Where all children are done already, from the first word on.
        run.wait_for_child(kill.after)
        run.wait_for("(?!)", kill.u * times.end)
    else:
        run.wait_for_child(kill.after)
        if kill.kind == "write":
            wait_for_write(run, folder / "runs" / "toy")
            time.sleep(kill.u * 0.02)
        else:
            run.wait_for("(?!)", kill.u * times.batch)
    hit, seconds = run.kill(), time.monotonic() - run.begun
    said = run.heard[-1][1][:60] if run.heard else "nothing said yet"
    return hit, seconds, f"{kill.kind:6s} {seconds:5.1f} s  {said}"


def uninterrupted(folder: pathlib.Path) -> Times:
    """Runs from start to end; the folder must have a config."""
    run = Run(folder)
    run.finish()
    end = time.monotonic() - run.begun
    start = next(when for when, text in run.heard if text.endswith(SEARCHING))
    batches = [when for when, text in run.heard if "] child " in text]
    gaps = [after - before for before, after in itertools.pairwise(batches)]
    return Times(start, statistics.median(gaps), end - batches[-1])


def prove(kills: int, seed: int, folder: pathlib.Path) -> bool:
    """Runs, kills and compares below `folder`; whether all is the same."""
    rng, begun = random.Random(seed), time.monotonic()
    children = 2 * max(4, kills * 2 // 3)
    settings = toy_world.make_world(folder / "world")
    settings |= {
        "qd": {"num_generations": children, "children_per_batch": 2, "bins": 5}
    }
    # The first run compiles what the others find, and is the control.
    first, whole, killed = (folder / name for name in ("first", "whole", "killed"))
    for place in (first, whole, killed):
        place.mkdir()
        toy_world.write_config(place / "toy.yaml", settings)
    uninterrupted(first)
    times = uninterrupted(whole)
    want = run_contents.contents(whole / "runs" / "toy")
    if not same(first, want, "of two uninterrupted runs"):
        return False
    print(
        f"seed {seed}: {children} children; uninterrupted: {times.start:.1f} s to the "
        f"search, {times.batch:.2f} s per batch, {times.end:.1f} s to compare and "
        "report",
        flush=True,
    )
    for number, kill in enumerate(plan_kills(kills, children, rng), start=1):
        for _ in range(TRIES):
            hit, seconds, where = strike(kill, times, killed)
            if hit:
                break
            # The run had ended before, so what is left of it is short.
            kill = kill._replace(kind="start", u=rng.random())
            times = times._replace(start=min(times.start, 0.9 * seconds))
        else:
            print(f"kill {number}/{kills} came too late {TRIES} times")
            return False
        minutes = (time.monotonic() - begun) / 60
        print(f"kill {number}/{kills}  {where}  [{minutes:.1f} min]", flush=True)
    Run(killed).finish()
    minutes = (time.monotonic() - begun) / 60
    return same(killed, want, f"after {kills} kills in {minutes:.1f} min")


def same(
    folder: pathlib.Path, want: dict[str, bytes], when: str, name: str = "toy"
) -> bool:
    """Compares the run below a folder and prints the outcome."""
    got = run_contents.contents(folder / "runs" / name)
    odd = run_contents.differences(got, want)
    for line in odd:
        print(f"differs: {line}")
    kinds = ", ".join(sorted({name.split("/")[0] for name in want}))
    print(
        f"{'NOT the same' if odd else 'the same'} {when}: {len(want)} files, "
        f"{sum(map(len, want.values()))} bytes ({kinds}); not compared: run.json, lock "
        "and wall times",
        flush=True,
    )
    return not odd


def main() -> int:
    """Parses the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="a new folder to leave everything in")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if args.keep:
            folder = pathlib.Path(args.keep).absolute()
            folder.mkdir(parents=True)
        else:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return 0 if prove(args.kills, args.seed, folder) else 1


if __name__ == "__main__":
    sys.exit(main())
