"""Scores of a run's experts on one mesh after another; run by `test_mesh`.

Reads settings as JSON from standard input and prints what every episode answered.
"""

import json
import sys

from cycleqd_jax.config import RunConfig
from cycleqd_jax.inference.settings import MeshSettings
from cycleqd_jax.merging.genome import base_genome, expert_genome
from cycleqd_jax.runs.setup import open_evaluator, prepare
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Split


class Quiet:
    def phase(self, name):
        pass

    def note(self, text):
        pass


def episodes(config):
    prepared = prepare(config, None, Quiet())
    individuals = {"base": base_genome(prepared.basis)} | {
        f"expert {k}": expert_genome(prepared.basis, k)
        for k in range(prepared.basis.num_experts)
    }
    with open_evaluator(config, prepared, make_sandbox(config.sandbox)) as evaluator:
        got = evaluator.evaluate(individuals, Split.OPTIMISE).episodes
    return [(e.individual, e.problem, list(e.tokens), e.score) for e in got]


def main():
    config = RunConfig.model_validate(json.load(sys.stdin))
    out = {}
    for data in (1, 4):
        for mode in ("factored", "materialised"):
            engine = config.engine.model_copy(
                update={"mesh": MeshSettings(data=data), "mode": mode}
            )
            out[f"{data} {mode}"] = episodes(
                config.model_copy(update={"engine": engine})
            )
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
