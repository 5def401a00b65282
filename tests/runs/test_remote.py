"""A host's evaluator is that of the run, or refused; a run on a cluster is the same."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest
import run_contents
import toy_world

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.actor import EvaluatorActor, as_request, value_of
from cycleqd_jax.merging.genome import expert_genome, uniform
from cycleqd_jax.merging.individuals import TrainedExpert
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.parts import write_run_facts
from cycleqd_jax.runs.remote import (
    fingerprints,
    host_source,
    of_driver,
    other_inputs,
)
from cycleqd_jax.runs.setup import open_evaluator, prepare
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Split
from experiments import agent_skills

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def config(toy_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    path = toy_world.write_config(folder / "toy.yaml", toy_settings)
    return load_config(path, ["evaluator=ray", f"run_dir={folder / 'run'}"], RunConfig)


@pytest.fixture(scope="module")
def prepared(config):
    """What the driver has, with its basis in the run folder."""
    prepared = prepare(of_driver(config), None, Observer())
    with RunFolder(config.run_dir, resume=False) as folder:
        write_run_facts(folder, config, prepared)
    return prepared


def call(actor, method, *args, **kwargs):
    return value_of(actor.call(as_request(method, *args, **kwargs)))


def verdicts(evaluation):
    rows = [dataclasses.replace(e, seconds=0.0) for e in evaluation.episodes]
    return rows, evaluation.cost[:2]


def test_a_hosts_evaluator_gives_the_bits_of_the_local_one(config, prepared):
    actor = EvaluatorActor()
    facts = call(actor, "open", host_source(config, prepared))
    ours = fingerprints(prepared)
    assert other_inputs(ours, facts) is None
    for name, other in (
        ("base model", "0"),
        ("tasks", ours["tasks"] | {"toy_b": "0"}),
        ("numbers of the basis", "0"),
    ):
        said = other_inputs(ours | {name: other}, facts)
        assert said.startswith(f"ray: the evaluator on {facts['host']} has other ")
        assert name in said and ("toy_b" in said) == (name == "tasks")
    individuals = {
        "expert": expert_genome(prepared.basis, 0),
        "mean": uniform(prepared.basis),
        "trained": TrainedExpert("toy_a"),
    }
    alone = config.model_copy(update={"evaluator": "local"})
    local = prepare(alone, None, Observer(), basis_file=stored(config))
    with open_evaluator(alone, local, make_sandbox(config.sandbox)) as evaluator:
        want = evaluator.evaluate(individuals, Split.OPTIMISE)
        scores = evaluator.score(individuals, Split.OPTIMISE).scores
    # In parts, as on a cluster: of individuals, and of problems.
    parts = [
        call(actor, "evaluate", {name: one}, Split.OPTIMISE, problems=problems)
        for name, one in individuals.items()
        for problems in (
            {"toy_a": [f"toy_a/optimise/{i}" for i in range(5)]},
            {n: [f"{n}/optimise/{i}" for i in range(5)] for n in ("toy_b", "toy_c")},
        )
    ]
    rows = [row for part in parts for row in verdicts(part)[0]]
    tokens = [sum(n) for n in zip(*(part.cost[:2] for part in parts), strict=True)]
    assert (rows, tuple(tokens)) == verdicts(want)
    assert call(actor, "score", individuals, Split.OPTIMISE).scores == scores
    actor.close()


def stored(config):
    return pathlib.Path(config.run_dir, "basis.safetensors")


def test_what_is_not_on_a_host_is_one_sentence(config, prepared, tmp_path):
    source = host_source(config, prepared)
    for name, missing in (("basis", tmp_path / "none"), ("folder", tmp_path / "no")):
        changed = source._replace(arguments=source.arguments | {name: str(missing)})
        actor = EvaluatorActor()
        with pytest.raises(BadInputError, match="ray: no evaluator can work on") as err:
            call(actor, "open", changed)
        assert str(missing) in str(err.value)
        actor.close()


@pytest.mark.parametrize(
    "given, said",
    [
        ("ray.address=127.0.0.1:1", "ray"),  # not installed, or no such cluster
        ("engine.slots=auto", "engine.slots is auto; expected a number"),
    ],
)
def test_a_run_and_its_dry_run_refuse_alike(
    given, said, toy_settings, tmp_path, capsys
):
    path = toy_world.write_config(tmp_path / "toy.yaml", toy_settings)
    errors = []
    for flags in ([], ["--dry-run"]):
        more = ["evaluator=ray", given, f"run_dir={tmp_path / 'run'}", "--resume"]
        assert agent_skills.main(["--config", str(path), *more, *flags]) == 2
        errors.append(" ".join(capsys.readouterr().err.split()))
    assert said in errors[0] and errors[0] == errors[1]


@pytest.mark.slow
@pytest.mark.parametrize("racing", [False, True])
def test_a_run_on_a_cluster_ends_with_the_bytes_of_a_local_one(
    racing, toy_settings, tmp_path
):
    import ray_cluster

    ray_cluster.needs_ray()
    settings = toy_settings | {
        "fitness": {"smooth": True},
        "qd": toy_settings["qd"] | {"mutation": "gradient", "crossover": "free"},
    }
    if racing:
        settings["racing"] = {"rungs": 2}
        settings["qd"] = settings["qd"] | {"children_per_batch": 4}
    toy_world.write_config(tmp_path / "toy.yaml", settings)
    environment = os.environ | ray_cluster.ENVIRONMENT
    command = [sys.executable, "-m", "experiments.agent_skills", "--config", "toy.yaml"]
    with ray_cluster.cluster(2) as head:
        for name, more in (
            ("local", []),
            ("ray", ["evaluator=ray", f"ray.address={head.address}"]),
        ):
            done = subprocess.run(
                [*command, f"run_dir={name}", *more],
                cwd=tmp_path,
                env=environment | {"PYTHONPATH": f"{TESTS.parent}:{TESTS / 'support'}"},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
    local, ray = (run_contents.contents(tmp_path / n) for n in ("local", "ray"))
    for name in ("config.yaml", "SHA256SUMS", "report/report.html"):
        assert local.pop(name) != ray.pop(name)  # they name the evaluator
    assert not run_contents.differences(ray, local)
