"""A fabricated run folder: right in form, its scores drawn at random."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import run_contents

from cycleqd_jax import files
from cycleqd_jax.runs.facts import RunFacts, write_facts

SIZES = {"optimise": 12, "validate": 10, "test": 20}
BINS = 6
RETENTION = ("nats_per_token", "nats_per_byte", "difference", "standard_error")


def _write(rows, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


class Fabricated:
    """Makes up a run of `num_tasks` skills and writes it in the run folder's format."""

    def __init__(self, run: pathlib.Path, num_tasks: int, num_children: int):
        self.run, self.rng = run, np.random.default_rng(7)
        self.tasks = [f"skill_{letter}" for letter in "abcde"[:num_tasks]]
        self.num_children = num_children
        self.elites = {task: {} for task in self.tasks}
        self.scores = {}

    def evaluate(self, individual, split, chances):
        """Result rows of one individual, solved with the given chance per task."""
        rows, scores = [], {}
        for task, chance in zip(self.tasks, chances, strict=True):
            # The first problems are the easiest, so that models agree on many.
            hard = (np.arange(SIZES[split]) + 0.5) / SIZES[split]
            solved = hard + 0.2 * self.rng.standard_normal(SIZES[split]) < chance
            scores[task] = float(solved.mean())
            rows += [
                {
                    "individual": individual,
                    "split": split,
                    "task": task,
                    "problem": f"{task}/{split}/{index}",
                    "outcome": "solved" if ok else "wrong",
                    "score": float(ok),
                    "answer": f"answer <{index}> & more",
                    "reply": f"```\nanswer <{index}> & more\n```",
                    "explanation": "as expected" if ok else "got \x1b[2J\u202e\r4",
                    "turns": np.int32(1),
                    "prompt_tokens": np.int32(40),
                    "tokens": np.array([5, 6, 2], np.int32),
                    "finish": "stop",
                    "replies": [f"```\nanswer <{index}> & more\n```"],
                    "metrics": [{"name": "plus", "value": float(ok)}],
                }
                for index, ok in enumerate(solved)
            ]
        return rows, scores

    def bin(self, score):
        edges = np.linspace(0.0, 1.0, BINS + 1)
        return int(np.clip(np.digitize(score, edges, right=True) - 1, 0, BINS - 1))

    def offer(self, name, scores):
        """Offers to all archives; status by task."""
        statuses = {}
        for task in self.tasks:
            bins = tuple(
                self.bin(scores[other]) for other in self.tasks if other != task
            )
            old = self.elites[task].get(bins)
            better = old is None or scores[task] > self.scores[old][task]
            if better:
                self.elites[task][bins] = name
            statuses[task] = (
                ("new" if old is None else "improved") if better else "rejected"
            )
        return statuses

    def add_child(self, t, names):
        """One child: its metrics row and its result rows."""
        name = f"child/{t}"
        chances = np.clip(
            self.rng.normal(0.3 + 0.4 * t / self.num_children, 0.15, 5), 0, 1
        )
        rows, scores = self.evaluate(name, "optimise", chances[: len(self.tasks)])
        self.scores[name] = scores
        first, second = self.rng.choice(names, 2, replace=False)
        row = {
            "generation": t,
            "individual": name,
            "active_task": self.tasks[t % len(self.tasks)],
            "parent_1": str(first),
            "parent_2": str(second),
            "weight_1": 1.02,
            "weight_2": 0.98,
        }
        row |= {f"score/{task}": score for task, score in scores.items()}
        statuses = self.offer(name, scores)
        row |= {f"status/{task}": status for task, status in statuses.items()}
        for task in self.tasks:
            held = self.elites[task].values()
            qualities = [self.scores[elite][task] for elite in held]
            row[f"best/{task}"] = max(qualities)
            row[f"coverage/{task}"] = len(qualities) / BINS ** (len(self.tasks) - 1)
            row[f"qd_score/{task}"] = float(sum(qualities))
        return row, rows

    def write(self):
        """Writes everything."""
        run, tasks, count = self.run, self.tasks, len(self.tasks)
        experts = [f"expert/{task}" for task in tasks]
        for index, expert in enumerate(experts):
            chances = [0.85 if k == index else 0.12 for k in range(count)]
            rows, self.scores[expert] = self.evaluate(expert, "optimise", chances)
            _write(
                rows, run / "results" / f"{expert.replace('/', '-')}-optimise.parquet"
            )
            rows, _ = self.evaluate(expert, "test", chances)
            _write(rows, run / "results" / f"{expert.replace('/', '-')}-test.parquet")
            self.offer(expert, self.scores[expert])
        names = list(experts)
        for start in range(1, self.num_children + 1, 4):
            batch = range(start, min(start + 4, self.num_children + 1))
            made = [self.add_child(t, names) for t in batch]
            part = f"batch-{(start + 3) // 4:06d}.parquet"
            _write([row for row, _ in made], run / "metrics" / part)
            _write([row for _, rows in made for row in rows], run / "results" / part)
            names += [row["individual"] for row, _ in made]
        children = names[count:]
        best = max(children, key=lambda name: sum(self.scores[name].values()))
        rest = {
            "base": 0.1,
            "uniform_merge": 0.5,
            "scaled_merge": 0.6,
            "best_of_archive": 0.65,
            "aggregated": 0.75,
        }
        for name, chance in rest.items():
            rows = self.evaluate(name, "test", [chance] * count)[0]
            if name in ("base", "uniform_merge", "aggregated"):
                rows += self.evaluate(name, "validate", [chance] * count)[0]
                rows += self.evaluate(name, "optimise", [chance] * count)[0]
            _write(rows, run / "results" / f"{name}.parquet")
        rows = self.evaluate("scaled_merge/0.4", "optimise", [0.6] * count)[0]
        _write(rows, run / "results" / "scaled-0.4-optimise.parquet")
        self._write_archives()
        champions = {
            task: max(
                self.elites[task].values(),
                key=lambda name, t=task: self.scores[name][t],
            )
            for task in tasks
        }
        aliases = {"scaled_merge": "scaled_merge/0.4", "best_of_archive": best}
        names = ["base", *experts, *list(rest)[1:]]
        facts = RunFacts(
            tasks=tuple(tasks),
            evaluated_children=self.num_children,
            state_fingerprint="0123456789abcdef" * 4,
            models=[{"name": n, "scored_as": aliases.get(n, n)} for n in names],
            result="aggregated",
            best=best,
            aggregation={
                task: {
                    "individual": name,
                    "quality": self.scores[name][task],
                    "validated": 0.5,
                    "beta": 1 / count,
                }
                for task, name in champions.items()
            },
            scaled_merge={
                "factor": 0.4,
                "tried": {"scaled_merge/0.3": 0.55, "scaled_merge/0.4": 0.6},
            },
            cost={
                "search": {"tokens_forward": 1500, "tokens_backward": 250},
                "champions": {"tokens_forward": 500, "tokens_backward": 0},
                "test": {"tokens_forward": 9000, "tokens_backward": 0},
            },
            retention={
                "base": dict.fromkeys(RETENTION, 0.0) | {"nats_per_token": -2.5},
                "aggregated": dict.fromkeys(RETENTION, -0.125),
            },
            search={"ranges": {task: [0.0, 1.0] for task in tasks}, "bins": BINS},
        )
        write_facts(run, facts)
        (run / "config.yaml").write_text(
            f"seed: 3\nrun_dir: {run}\nbase_model: some/model\ntasks: {tasks}\n"
            f"experts: {json.dumps({task: 'x' for task in tasks})}\n"
            f"problems: {json.dumps(SIZES)}\n"
            f"qd: {json.dumps(self.qd_settings())}\n"
        )
        run_contents.seal(run)
        (run / "timing.jsonl").write_text(
            '{"phase": "loop", "seconds": 90.5}\n{"phase": "test", "seconds": 30.0}\n'
        )

    def qd_settings(self):
        ranges = {task: [0.0, 1.0] for task in self.tasks}
        return {
            "bins": BINS,
            "cell_range": ranges,
            "num_generations": self.num_children,
        }

    def _write_archives(self):
        rows = []
        for task, elites in self.elites.items():
            for bins, name in sorted(elites.items()):
                row = {
                    "archive": task,
                    "cell": int(np.dot(bins, BINS ** np.arange(len(bins)))),
                }
                row |= {"bins": list(bins), "individual": name}
                row["quality"] = self.scores[name][task]
                row |= {f"score/{t}": score for t, score in self.scores[name].items()}
                rows.append(row)
        _write(rows, self.run / "archives.parquet")


@pytest.fixture(scope="session")
def fabricate(tmp_path_factory):
    """Makes a fresh run folder."""

    def _fabricate(num_tasks=3, num_children=14):
        run = tmp_path_factory.mktemp("run")
        Fabricated(run, num_tasks, num_children).write()
        return run

    return _fabricate


def rewrite_children(run, change, **qd):
    """Changes the row of metrics of every child, and settings of the search."""
    for path in (run / "metrics").glob("*.parquet"):
        rows = pq.read_table(path).to_pylist()
        _write([row | change(row) for row in rows], path)
    config = run / "config.yaml"
    lines = config.read_text().splitlines()
    lines = [
        f"qd: {json.dumps(json.loads(line[4:]) | qd)}"
        if line.startswith("qd: ")
        else line
        for line in lines
    ]
    config.write_text("\n".join(lines) + "\n")
    run_contents.seal(run)


def interrupt(run, batches):
    """Makes it a run in progress that has done its first batches of four children."""
    facts = json.loads((run / "state.json").read_text())
    files.write_sealed(run / "run.json", {"tasks": facts["tasks"]})
    (run / "state.json").unlink()
    (run / "archives.parquet").unlink()
    for path in [*run.glob("results/*.parquet"), *run.glob("metrics/*.parquet")]:
        number = path.stem.removeprefix("batch-")
        done = number.isdecimal() and int(number) <= batches
        if not done and not path.stem.endswith("-optimise"):
            path.unlink()


@pytest.fixture(scope="session")
def started(fabricate):
    """Makes a run in progress with some batches done."""

    def _started(batches, num_tasks=3):
        run = fabricate(num_tasks)
        interrupt(run, batches)
        return run

    return _started


@pytest.fixture(scope="session")
def finished_run(fabricate):
    """Three skills; not to be changed."""
    return fabricate()


@pytest.fixture(scope="session")
def rewrite():
    """Changes the children of a run, and settings of its search."""
    return rewrite_children


@pytest.fixture(scope="session")
def interrupted():
    """Makes a run one in progress; see `interrupt`."""
    return interrupt
