"""Proves that a signal at any moment ends a command with its exit code and a sentence.

    python tests/proofs/prove_signals.py [--step 0.3] [--commands NAME ...] [--all]

Runs each command on a small world from start to end, then again and again, and sends a
signal `step`, 2 * `step`, 3 * `step` ... seconds after its start, until it ends before:
SIGINT, SIGTERM and SIGHUP in turn, or each of them with `--all`. Each time the command
must end within LATEST_S, with 130, 143 or 129 and one sentence, and leave no process
behind. Some of the runs are resumed to their end. Exit code 0 if all was so.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

TESTS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "sandbox"), str(TESTS.parent)]

import footprint  # noqa: E402
import signalled  # noqa: E402
import toy_world  # noqa: E402

LATEST_S = 60.0  # from the signal to the end; a second or two on a free machine
GONE_S = 20.0  # until the processes of its sandboxes have noticed its end
RESUMED = 10  # each so manieth run


class Command(NamedTuple):
    """A command to try.

    Attributes:
      arguments: of Python; paths are relative to a new folder.
      resume: arguments to add to go on with; None where it only starts anew.
    """

    arguments: tuple[str, ...]
    resume: tuple[str, ...] | None = None


def make_commands(folder: pathlib.Path) -> dict[str, Command]:
    """Writes what the commands need below `folder`, a finished run among it."""
    settings = toy_world.make_world(folder / "world")
    settings["problems"] |= {"train": 4}
    config = str(toy_world.write_config(folder / "toy.yaml", settings))
    train = {
        name: settings[name] for name in ("seed", "base_model", "problems", "engine")
    } | {
        "experts": {"both": {"toy_task:ToyA": 0.5, "toy_task:ToyB": 0.5}},
        "lora": {"rank": 2},
        "optimiser": {"steps": 8, "batch_size": 2, "checkpoint_every": 2},
    }
    train["optimiser"] |= {"warmup_steps": 1, "max_length": 64}
    training = str(toy_world.write_config(folder / "train.yaml", train))
    evolve = Command(
        ("-m", "experiments.agent_skills", "--config", config, "run_dir=run"),
        ("--resume",),
    )
    finish(evolve, folder)
    run = str(folder / "run")
    commands = {
        "agent_skills": evolve,
        "train_experts": Command(
            ("-m", "experiments.train_experts", "--config", training, "output=out"), ()
        ),
        "report": Command(("-m", "experiments.report", run), ()),
        "export": Command(("-m", "experiments.export", run, "--to", "model")),
    }
    data = os.environ.get("CYCLEQD_BENCHMARK_DATA")
    if data and shutil.which("mariadbd"):  # it is started and has to be ended
        golden = pathlib.Path(data) / "golden" / "dbbench.jsonl"
        rows = [json.loads(line) for line in golden.read_text().splitlines()[:40]]
        episodes = folder / "episodes.jsonl"
        episodes.write_text("".join(json.dumps(row) + "\n" for row in rows))
        commands["replay"] = Command(
            (
                *("-m", "experiments.replay", "--task", "dbbench"),
                *("--data", f"{data}/dbbench/cycleqd_standard_dev.jsonl"),
                *("--transcripts", str(episodes), "--out", "verdicts.jsonl"),
            ),
            ("--resume",),
        )
    return commands


def finish(command: Command, folder: pathlib.Path, *more: str) -> float:
    """Runs a command to its end, which must be a good one; its seconds."""
    began = time.monotonic()
    process = signalled.start(*command.arguments, *more, folder=folder)
    _, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {command}\n{error}")
    return time.monotonic() - began


def is_exiting(pid: int) -> bool:
    """Whether the kernel is taking a process apart, which takes a while."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return bool(int(fields[6]) & 0x4)  # PF_EXITING


class End(NamedTuple):
    """How a run ended: seconds from the signal on, what it said, what was wrong."""

    seconds: float
    said: str
    wrong: str


def strike(command: Command, number: int, after_s: float, folder: pathlib.Path):
    """Starts a command and sends it a signal; an `End`, None if it ended before."""
    process = signalled.start(*command.arguments, folder=folder)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=after_s)
        return None
    if is_exiting(process.pid):
        process.communicate()
        return None
    sent = time.monotonic()
    process.send_signal(number)
    try:
        _, error = process.communicate(timeout=LATEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return End(LATEST_S, "", "it did not end")
    seconds = time.monotonic() - sent
    wrong = signalled.wrong_end(process, error, number)
    end = time.monotonic() + GONE_S
    while left := footprint.children():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        if time.monotonic() > end:
            wrong = wrong or f"it left processes: {left}"
            break
        time.sleep(0.01)
    return End(seconds, error.strip(), wrong)


def prove(name: str, command: Command, numbers, step_s: float, top: pathlib.Path):
    """Signals to one command until it ends before; how often something was wrong."""
    whole_s = finish(command, folder_for(top, name, "whole"))
    print(f"{name}: {whole_s:.1f} s uninterrupted", flush=True)
    wrong, slowest, count = 0, 0.0, 0
    ends: collections.Counter[int] = collections.Counter()
    for place in range(1, 10_000):
        for number in numbers(place):
            folder = folder_for(top, name, f"{place}-{number}")
            end = strike(command, number, place * step_s, folder)
            if end is None:
                break
            count, slowest = count + 1, max(slowest, end.seconds)
            ends[signalled.CODES[number]] += 1
            if end.wrong:
                wrong += 1
                print(f"  {place * step_s:.1f} s: {end.wrong}\n{end.said}", flush=True)
            if command.resume is not None and count % RESUMED == 0:
                finish(command, folder, *command.resume)
            shutil.rmtree(folder)
        else:
            continue
        break
    codes = ", ".join(f"{n} times {code}" for code, n in sorted(ends.items()))
    print(
        f"  {count} signals, {wrong} with a wrong end ({codes}); the slowest end took "
        f"{slowest:.1f} s",
        flush=True,
    )
    return wrong


def folder_for(top: pathlib.Path, *names: str) -> pathlib.Path:
    folder = top / "-".join(names)
    folder.mkdir()
    return folder


def main() -> int:
    """Parses the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=float, default=0.3, help="seconds")
    parser.add_argument("--commands", nargs="+", help="only these")
    parser.add_argument("--all", action="store_true", help="each signal each time")
    args = parser.parse_args()
    order = list(signalled.CODES)
    numbers = lambda place: order if args.all else [order[place % len(order)]]  # noqa: E731
    footprint.become("-")  # whatever loses its parent becomes our child
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        commands = make_commands(folder)
        wrong = sum(
            prove(name, commands[name], numbers, args.step, folder)
            for name in args.commands or commands
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
