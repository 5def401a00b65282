"""Proves that damaged input ends with an exit code and a sentence.

    python tests/proofs/prove_fuzz.py [--seed 0] [--count 1000] [--keep FOLDER]

COUNT mutated configs are read as settings of a run or of a training, every 25th also by
the main command; COUNT / 5 damaged files (weights, GGUF, adapters, tokenisers,
checkpoints, run folders) are given to the commands that read them. Each case must end
with 0, 1 or 2 and, if not 0, one sentence: no traceback, no hang, no more than 3 GiB.
Exit code 0 if all do; what does not is printed and kept.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import yaml

HERE = pathlib.Path(__file__).parent
TESTS = HERE.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent), str(HERE)]

import mutate  # noqa: E402

LIMIT_S = 120  # for one case; they take a second or two
LONGEST = 1500  # characters of a sentence
CONFIGS = TESTS.parent / "experiments" / "configs"
# What is damaged, how often, and which files of the world belong to it.
INPUTS = {
    "weights": (22, ["base/config.json", "base/model.safetensors"]),
    "shards": (16, ["sharded/*.index.json", "sharded/model-*", "sharded/config.json"]),
    "gguf": (20, ["base.gguf"]),
    "adapters": (18, ["toy_a/adapter_*"]),
    "tokenisers": (14, ["base/tokenizer*.json", "base/chat_template.jinja",
                        "base/generation_config.json"]),
    "checkpoints": (4, ["run/checkpoints/*/*", "run/checkpoints/*/*/*"]),
    "run folders": (6, ["run/*.*", "run/results/*", "run/metrics/*", "run/costs/*",
                        "run/report/*"]),
}  # fmt: skip


class Worker:
    """A process that runs cases; started again when one ends it."""

    def __init__(self):
        self._process = None

    def run(self, case: dict, limit_s: float) -> dict:
        """The answer to one case, see `fuzz_worker`."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "fuzz_worker.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
            )
            if self._answer(600) != "ready\n":
                raise SystemExit("the worker did not start")
        self._process.stdin.write(json.dumps(case) + "\n")
        line = self._answer(limit_s)
        if line:
            return json.loads(line)
        ended = self._process.poll()
        self.close()
        what = "took too long" if ended is None else f"ended the process ({ended})"
        return {"error": what}

    def _answer(self, limit_s: float) -> str:
        ready, _, _ = select.select([self._process.stdout], [], [], limit_s)
        return self._process.stdout.readline() if ready else ""

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def wrong(answer: dict) -> str | None:
    """Why an answer is not an exit code and a sentence; None if it is."""
    if "error" in answer:
        return answer["error"]
    code, text = answer["code"], answer["text"]
    if code == 0:
        return None
    if code not in (1, 2):
        return f"exit code {code}: {text}"
    lines = text.strip().splitlines()
    if not lines or not lines[0].startswith(("Bad input: ", "Failed: ")):
        return f"exit code {code} without a sentence: {text[:1000]}"
    if len(lines) > code % 2 + 1 or len(text) > LONGEST:  # after 1, how to go on
        return f"more than a sentence: {text[:1000]}"
    if "memory is used up" in text:
        return text
    return None


def config_cases(
    count: int, rng: random.Random, settings: dict, folder: pathlib.Path
) -> Iterator[tuple[str, dict]]:
    """Mutated configs as (what, case)."""
    settings = settings | {"run_dir": str(folder / "new")}
    train = yaml.safe_load((CONFIGS / "quickstart_experts.yaml").read_text())
    for number in range(count):
        kind = ("RunConfig", "TrainConfig")[number % 2]
        start = settings if kind == "RunConfig" else train
        path = folder / f"{number}.yaml"
        path.write_bytes(mutate.mutate_config(start, rng))
        overrides = []
        if rng.random() < 0.2:
            value = mutate.odd_value(rng)
            value = value if isinstance(value, str) else json.dumps(value)
            key = rng.choice(["seed", "qd.bins", "qd", "tasks", "qd.x.y", "", "=", "."])
            overrides = [f"{key}={value[:1000]}".replace("\x00", "")]
        case = {"do": "load", "model": kind, "path": str(path), "overrides": overrides}
        yield f"{kind} {path.name}", case
        if number % 50 == 0:
            argv = ["--config", str(path), "--dry-run", *overrides]
            command = {"do": "command", "module": "agent_skills", "argv": argv}
            yield f"dry run of {path.name}", command


def input_cases(
    count: int, rng: random.Random, world: pathlib.Path, folder: pathlib.Path
) -> Iterator[tuple[str, dict]]:
    """Damaged files as (what, case); each in a copy of the world of its own."""
    total = sum(share for share, _ in INPUTS.values())
    for name, (share, patterns) in INPUTS.items():
        for number in range(max(1, round(count * share / total))):
            place = folder / f"{name.replace(' ', '-')}-{number}"
            shutil.copytree(world, place)
            paths = sorted({p for x in patterns for p in place.glob(x) if p.is_file()})
            path = rng.choice(paths)
            if rng.random() < 0.04:
                path.unlink()
            else:
                damaged = mutate.mutate_file(path.name, path.read_bytes(), rng)
                path.write_bytes(damaged)
            argv = ["--config", str(place / "toy.yaml")]
            text = (place / "toy.yaml").read_text().replace(str(world), str(place))
            (place / "toy.yaml").write_text(text)
            case = {"do": "command", "module": "agent_skills"}
            if name in ("checkpoints", "run folders"):
                kind = rng.choice(["resume", "resume", "report", "export"])
                if kind == "resume":
                    if rng.random() < 0.5:
                        (place / "run" / "state.json").unlink(missing_ok=True)
                    case["argv"] = [*argv, "--resume"]
                else:
                    case["module"] = kind
                    to = ["--to", str(place / "out")] if kind == "export" else []
                    case["argv"] = [str(place / "run"), *to]
            else:
                base = {"gguf": "base.gguf", "shards": "sharded"}.get(name, "base")
                other = [f"base_model={place / base}", f"run_dir={place / 'new'}"]
                case["argv"] = [*argv, "--dry-run", *other]
            yield f"{path.relative_to(folder)}", case
            shutil.rmtree(place)


def prove(
    count: int, seed: int, folder: pathlib.Path, *, limit_s: float = LIMIT_S
) -> bool:
    """Makes and runs all cases below `folder`; whether all ended as they must."""
    import fuzz_world

    rng, begun = random.Random(seed), time.monotonic()
    world, configs, inputs = (folder / n for n in ("world", "configs", "inputs"))
    for place in (world, configs, inputs):
        place.mkdir()
    with contextlib.redirect_stdout(None):
        settings = fuzz_world.make_fuzz_world(world)
    worker, failures = Worker(), 0
    log = open(folder / "answers.jsonl", "w", encoding="utf-8", buffering=1)
    codes: collections.Counter = collections.Counter()
    cases = {
        "configs": config_cases(count, rng, settings, configs),
        "inputs": input_cases(max(len(INPUTS), count // 5), rng, world, inputs),
    }
    for group, found in cases.items():
        for number, (what, case) in enumerate(found, start=1):
            answer = worker.run(case, limit_s)
            why = wrong(answer)
            log.write(json.dumps({"what": what, "case": case} | answer) + "\n")
            codes[group, answer.get("code")] += 1
            if why is not None:
                failures += 1
                print(f"FAILED {what}: {json.dumps(case)[:300]}\n{why}", flush=True)
                keep_failed(folder, what, number)
            if number % 100 == 0:
                minutes = (time.monotonic() - begun) / 60
                print(f"{group}: {number} done [{minutes:.1f} min]", flush=True)
    worker.close()
    log.close()
    for (group, code), times in sorted(codes.items(), key=str):
        print(f"{group}: exit code {code}: {times}")
    print(
        f"seed {seed}: {sum(codes.values())} cases, {failures} failures, in "
        f"{(time.monotonic() - begun) / 60:.1f} min"
    )
    return not failures


def keep_failed(folder: pathlib.Path, what: str, number: int) -> None:
    """Copies what a failed case read, before it is removed."""
    path = folder / "inputs" / what.split("/")[0]
    if "/" in what and path.is_dir():
        shutil.copytree(path, folder / "failed" / f"{number}-{path.name}")


def main() -> int:
    """Parses the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--keep", help="a new folder to leave everything in")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if args.keep:
            folder = pathlib.Path(args.keep).absolute()
            folder.mkdir(parents=True)
        else:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return 0 if prove(args.count, args.seed, folder) else 1


if __name__ == "__main__":
    sys.exit(main())
