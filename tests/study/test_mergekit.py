"""Configs of mergekit become configs of runs, or one sentence."""

import pytest
import yaml

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.study.mergekit import convert
from experiments import from_mergekit

TASKS = ("pocket_db", "pocket_os")


def of(text, **arguments):
    return convert(yaml.safe_load(text), **{"tasks": TASKS} | arguments)


def merge(method, parameters="{}", one="weight: 1.0", two="weight: 3.0", base=True):
    return f"""
merge_method: {method}
{"base_model: org/base" if base else ""}
models:
  - model: org/a
    parameters: {{ {one} }}
  - model: org/base+x/b@main
    parameters: {{ {two} }}
parameters: {parameters}
"""


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (merge("linear"), {"method": "sum", "weights": [0.25, 0.75]}),
        (
            merge("linear", "{normalize: false}", "weight: 0.3", "weight: 0.7"),
            {"method": "sum", "weights": [0.3, 0.7]},
        ),
        (
            merge("task_arithmetic", "{lambda: 0.5, int8_mask: true}"),
            {"method": "sum", "factors": [0.5], "weights": [1.0, 3.0]},
        ),
        (
            merge("task_arithmetic", "{normalize: true}"),
            {"method": "sum", "weights": [0.25, 0.75]},
        ),
        (
            merge("ties", "{density: 0.5}"),
            {
                "method": "ties",
                "weights": [1.0, 3.0],
                "densities": [0.5],
                "normalise": True,
            },
        ),
        (
            merge("dare_ties", "{weight: 2, density: 0.1, rescale: true}", "", ""),
            {
                "method": "dare_ties",
                "weights": [2.0, 2.0],
                "densities": [0.1],
                "normalise": False,
            },
        ),
        (
            merge("dare_linear", "{normalize: true, density: [{value: 0.2}]}"),
            {"method": "dare", "weights": [0.25, 0.75], "densities": [0.2]},
        ),
    ],
)
def test_merges(text, settings):
    found = of(text).settings
    assert found["search_settings"] == {"factors": [1.0]} | settings
    assert found["base_model"] == "org/base" and found["search"] == "merge"
    assert found["experts"] == {
        "pocket_db": "none",
        "pocket_os": "none",
        "a": "org/a",
        "b": "x/b@main",
    }


def test_the_base_has_a_weight_in_a_mean():
    text = merge("linear").replace("org/base+x/b@main", "org/base")
    found = of(text).settings
    assert found["search_settings"]["weights"] == [0.25]
    assert list(found["experts"]) == [*TASKS, "a"]


def test_slerp_starts_at_the_models_base():
    pair = "merge_method: slerp\nmodels: [org/a, org/b]\nparameters: {t: 0.2}\n"
    for first, weights in (("org/a", [0.8, 0.2]), ("org/b", [0.2, 0.8])):
        found = of(f"{pair}base_model: {first}", base_model="org/base").settings
        assert found["search_settings"]["weights"] == pytest.approx(weights)
        assert found["base_model"] == "org/base"
    with pytest.raises(BadInputError, match=r"--base-model is missing: .* of the pair"):
        of(f"{pair}base_model: org/a")


def test_an_expert_with_the_name_of_a_task_is_still_none_of_its_own():
    found = of(merge("linear").replace("org/a", "org/pocket_os")).settings
    assert list(found["experts"].values()) == [
        "none",
        "none",
        "org/pocket_os",
        "x/b@main",
    ]


EVOLVE = """
genome:
  models: [org/a, org/b]
  merge_method: task_arithmetic
  base_model: org/base
tasks: [{name: arc_easy, weight: 1.0}, gsm8k]
limit: 40
"""


def test_evolution():
    found = of(EVOLVE, tasks=())
    assert found.settings["tasks"] == ["lm_eval:arc_easy", "lm_eval:gsm8k"]
    assert found.settings["search"] == "cma_es"
    assert found.settings["search_settings"] == {"start": 0.5}
    assert found.settings["problems"] == {"optimise": 40}
    assert any("one weight per model" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (merge("model_stock"), "merge_method: 'model_stock' has no exact form here"),
        (merge("linear", base=False), "--base-model is missing: .* is missing"),
        (merge("linear", "{normalize: false}"), "the weights make 4, so the base"),
        (merge("linear", one=""), r"models\[0\]: weight is missing; linear needs it"),
        (merge("linear", one="weight: [0, 1]"), "expected a number for all layers"),
        (merge("linear", one="weight: yes"), "weight is true; expected a number"),
        (merge("linear", "{density: 1}"), "parameters.density: linear has no exact"),
        (merge("ties", one="weight: 1, density: 0.5"), "have the densities 0.5, 1.0"),
        (merge("ties", "{rescale: true}"), "parameters.rescale: ties has no exact"),
        (merge("ties", "{density: 0}"), "the merge.densities.0: "),
        (merge("linear", two="weight: -1"), "the weights make 0"),
        (merge("linear").replace("org/base+", "x/y+"), "an adapter of another model"),
        (merge("linear").replace("org/a", "org/base+x/b@main"), "is there twice"),
        (merge("linear") + "tokenizer_source: union", "tokenizer_source: is 'union'"),
        (merge("linear") + "slices: [{}]", "layers of several cannot be said"),
        (merge("linear") + "modul: 1", "modul: is not understood"),
        ("merge_method: linear\nmodels: 3", "models: expected a list"),
        ("merge_method: linear\nmodels: [[]]\nbase_model: b", r"models\[0\]: is "),
        (EVOLVE.replace("task_arithmetic", "ties"), "genome.merge_method: 'ties'"),
        (EVOLVE.replace("  base", "  layer_granularity: 4\n  base"), "groups of lay"),
        ("genome: 3", "genome: is 3; expected a mapping"),
    ],
)
def test_what_cannot_be_said_is_refused(text, says):
    with pytest.raises(BadInputError, match=says):
        of(text)


def test_the_command_writes_a_config_that_loads(tmp_path, capsys):
    source, target = tmp_path / "merge.yml", tmp_path / "run.yaml"
    source.write_text(merge("dare_linear", "{density: 0.5}"))
    words = [str(source), "--tasks", "pocket_db, pocket_os"]
    assert from_mergekit.main(words) == 0
    printed = capsys.readouterr().out
    assert "# DARE drops other elements at random" in printed
    assert from_mergekit.main([*words, "--to", str(target)]) == 0
    assert target.read_text() == printed
    assert load_config(target, [], RunConfig).search == "merge"
    for wrong, says in (
        ([*words, "--to", str(target)], "exists; choose another"),
        ([str(source)], f"{source}: --tasks is missing"),
        ([str(tmp_path / "none.yml")], "no such config file"),
    ):
        assert from_mergekit.main(wrong) == 2
        assert says in " ".join(capsys.readouterr().err.split())
