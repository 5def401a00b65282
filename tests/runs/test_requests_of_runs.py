"""Whole runs that ask for gradients or scores: resumed alike, refused alike."""

import pytest
import toy_world

from cycleqd_jax import files
from cycleqd_jax.runs import costs
from experiments import agent_skills

GRADIENT = ["qd.mutation=gradient", "qd.crossover=free"]
METHODS = {
    "gradient": [*GRADIENT, "qd.ascent_steps=2", "qd.ascent_problems=2"],
    "accepted": [
        *GRADIENT,
        "qd.ascent_answers=accepted",
        "qd.ascent_steps=2",
        "problems.train=0",
    ],
    "es": ["qd.mutation=es", "qd.ascent_steps=1", "qd.es_pairs=2"],
    "search": ["search=gradient", "search_settings={steps: 2, problems: 2}"],
}


def command(folder, settings, *more):
    config = toy_world.write_config(folder / "run.yaml", settings)
    return ["--config", str(config), *more]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gradient", marks=pytest.mark.slow),
        "accepted",
        pytest.param("es", marks=pytest.mark.slow),
        pytest.param("search", marks=pytest.mark.slow),
    ],
)
def test_a_run_in_parts_ends_the_same(name, toy_settings, tmp_path):
    states = []
    for place, stops in (("whole", [4]), ("parts", [2, 4])):
        for stop in stops:
            more = [f"run_dir={tmp_path / place}", f"qd.num_generations={stop}"]
            arguments = [*METHODS[name], *more, "--resume"]
            assert agent_skills.main(command(tmp_path, toy_settings, *arguments)) == 0
        states.append(files.read_json(tmp_path / place / "state.json"))
    assert states[0] == states[1]
    assert states[0]["evaluated_children"] == 4
    parts = costs.part_costs(tmp_path / "parts")
    assert (parts["batch-000003"].tokens_backward > 0) == (name != "es")


@pytest.mark.parametrize(
    "method, more, said",
    [
        (
            "gradient",
            ["problems.train=0"],
            "qd.mutation: gradient needs train problems",
        ),
        ("es", ["problems.train=0"], "qd.mutation: es needs train problems"),
        ("search", ["problems.train=0"], "search: gradient needs train problems"),
        (
            "gradient",
            ["basis.rank=1", "basis.residual=keep", "engine.mode=auto"],
            "basis.residual is keep, but gradients need",
        ),
        (
            "es",
            ["qd.ascent_answers=accepted"],
            "ascent_answers is accepted and mutation is es",
        ),
        (
            "search",
            ["search_settings={rate: 0}"],
            "search_settings.rate",
        ),
    ],
)
def test_a_run_and_its_dry_run_refuse_alike(
    toy_settings, tmp_path, capsys, method, more, said
):
    errors = []
    for flags in ([], ["--dry-run"]):
        arguments = [*METHODS[method], *more, f"run_dir={tmp_path / 'run'}", *flags]
        assert agent_skills.main(command(tmp_path, toy_settings, *arguments)) == 2
        errors.append(" ".join(capsys.readouterr().err.split()))
    assert said in errors[0] and errors[0] == errors[1]
