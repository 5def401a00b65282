"""The main command with every operator, basis and number of tasks."""

import jax
import numpy as np
import pytest
import run_contents
import toy_world

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.merging.basis_store import load_basis
from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.merging.individuals import Adapter, TrainedExpert
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.models.loading import load_expert
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs import basis as runs_basis
from cycleqd_jax.runs import setup, trained_experts
from cycleqd_jax.runs.conditioning import train_inputs
from cycleqd_jax.runs.costs import run_cost
from cycleqd_jax.runs.opened import open_run
from experiments import agent_skills


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Settings by number of tasks; from three on the second expert is a full one."""

    def make(num_tasks):
        folder = tmp_path_factory.mktemp(f"world-{num_tasks}")
        full = ("toy_b",) if num_tasks > 2 else ()
        settings = toy_world.make_world(folder, num_tasks, full)
        settings["engine"]["mode"] = "auto"
        settings["problems"] |= {"optimise": 3, "validate": 2, "test": 2}
        settings["qd"] |= {"num_generations": 4, "bins": 3}
        return settings

    return make


def run(settings, folder, *overrides):
    config = toy_world.write_config(folder / "config.yaml", settings)
    place = f"run_dir={folder / 'run'}"
    code = agent_skills.main(["--config", str(config), place, *overrides])
    return code, folder / "run"


@pytest.mark.parametrize(
    "num_tasks, overrides, said",
    [
        pytest.param(2, ["qd.mutation=svd_child"], "core form",
                     marks=pytest.mark.slow),
        (3, ["qd.mutation=gaussian", "qd.gaussian_std=0.05", "qd.selection=random"],
         "Gaussian noise"),
        pytest.param(3, ["basis.rank=2", "qd.selection=elite_ref"],
                     "the rest is dropped", marks=pytest.mark.slow),
        (4, ["basis.rank=2", "basis.residual=keep", "qd.mutation=svd_scale"],
         "the rest is kept"),
        pytest.param(5, ["qd.mutation=none", "qd.flip_interval=2"], "similarity",
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_runs_to_its_end(worlds, tmp_path, capsys, num_tasks, overrides, said):
    code, folder = run(worlds(num_tasks), tmp_path, *overrides)
    out = " ".join(capsys.readouterr().out.split())
    assert code == 0 and said in out
    state = files.read_json(folder / "state.json")
    assert len(state["tasks"]) == num_tasks
    assert state["evaluated_children"] == 4
    basis = load_basis(folder / "basis.safetensors").basis
    assert bool(basis.residuals) == ("basis.residual=keep" in overrides)
    trained = folder / "results" / "trained-experts-optimise.parquet"
    if "basis.rank=2" in overrides and not basis.residuals:
        rows = files.read_table(folder / "energy.parquet").to_pylist()
        assert {row["expert"] for row in rows} == {"toy_b"}  # LoRAs are of rank 2
        tried = files.read_table(trained).to_pylist()
        assert {row["individual"] for row in tried} == {"trained_expert/toy_b"}
        assert "toy_b as trained and as its genome" in out
    else:
        assert not trained.exists()


@pytest.mark.parametrize(
    "method", ["regmean", pytest.param("data_free", marks=pytest.mark.slow)]
)
def test_a_conditioned_run(worlds, tmp_path, capsys, method):
    """All experts are scored both ways; the report says what conditioned them."""
    more = [f"basis.conditioning={method}", "basis.conditioning_problems=3"]
    code, folder = run(worlds(3), tmp_path, *more)
    out = " ".join(capsys.readouterr().out.split())
    assert code == 0 and f"the task vectors are conditioned: {method}" in out
    rows = files.read_table(folder / "results" / "trained-experts-optimise.parquet")
    names = {f"trained_expert/toy_{letter}" for letter in "abc"}
    assert set(rows.column("individual").to_pylist()) == names
    facts = files.read_json(folder / "basis.json")
    assert (facts["gram_tokens"] > 100) == (method == "regmean")
    report = files.read_json(folder / "report" / "report.json")
    assert report["basis"]["conditioning"] == method
    assert set(report["basis"]["changed"]) == {"toy_a", "toy_b", "toy_c"}
    page = (folder / "report" / "report.html").read_text()
    assert f"The task vectors are conditioned: {method}" in page
    plain = prepared_from(worlds(3))[1].basis
    basis = load_basis(folder / "basis.safetensors").basis
    name = "model.layers.1.mlp.down_proj.weight"
    assert not np.allclose(plain.v[name], basis.v[name], atol=1e-2)


def test_more_experts_than_tasks_and_a_task_without_one(worlds, tmp_path, capsys):
    """Task toy_c has no expert; expert "second" has no task, and is scored on all."""
    settings = worlds(3)
    entries, experts = settings["tasks"], dict(settings["experts"])
    folder = experts[entries[2]]
    settings["experts"] = {"second": experts[entries[1]], "third": folder} | experts
    settings["experts"][entries[2]] = "none"
    more = ["basis.rank=2", "qd.num_generations=5", "aggregation.result=validated"]
    code, run_folder = run(settings, tmp_path, *more)
    out = " ".join(capsys.readouterr().out.split())
    assert code == 0 and "expert second as trained and as its genome: mean" in out
    named = ["toy_a", "toy_b", "second", "third"]
    assert (
        list(load_basis(run_folder / "basis.safetensors").basis.expert_names) == named
    )
    metrics = [files.read_table(p).to_pylist()
               for p in sorted((run_folder / "metrics").glob("*.parquet"))]  # fmt: skip
    active = [row["active_task"] for rows in metrics for row in rows]
    assert active == ["toy_b", "toy_c", "toy_a", "toy_b", "toy_c"]
    report = files.read_json(run_folder / "report" / "report.json")
    assert report["experts"] == named and report["tasks"] == list(toy_world.TASKS[:3])
    assert {f"expert/{name}" for name in named} <= set(report["models"])
    assert set(report["basis"]["changed"]) == {"toy_b", "second"}
    for champion in report["aggregation"].values():
        assert list(champion["expert_shares"]) == named
        assert sum(champion["expert_shares"].values()) == pytest.approx(1)
    means = {g: c["validated"] for g, c in report["aggregation"].items()}
    rows = files.read_table(run_folder / "results" / "final-validate.parquet")
    average = np.mean(rows["score"].to_numpy())
    best = max(means, key=means.__getitem__)
    wanted = f"champion/{best}" if means[best] > average else "aggregated"
    assert report["result"] == wanted and "aggregated" in report["models"]
    opened = open_run(run_folder)
    assert opened.individual("trained_expert/second") == TrainedExpert("second")
    genome = opened.individual("expert/third")
    assert genome.scales.tolist() == [0, 0, 0, 1]
    assert set(opened.whole_models(None).experts) == set(named)


@pytest.mark.parametrize(
    "more, words",
    [
        ([], "but second belongs to no task; name one in basis.conditioning_tasks"),
        (["basis.conditioning_tasks={third: toy_a}"], "there is no such expert"),
        (
            ["basis.conditioning_tasks={toy_a: toy_b}"],
            "has the problems of its own task",
        ),
        (
            ["basis.conditioning_tasks={second: toy_c}"],
            "second is toy_c; expected one of the tasks toy_a, toy_b",
        ),
        (
            [
                "basis.conditioning_tasks={second: toy_a}",
                "basis.conditioning=data_free",
            ],
            "basis.conditioning is data_free; set that to regmean",
        ),
    ],
)
def test_an_expert_without_a_task_needs_one_for_its_inputs(
    worlds, tmp_path, capsys, more, words
):
    settings = worlds(2)
    settings["experts"]["second"] = next(iter(settings["experts"].values()))
    said = []
    for last in (["--dry-run"], []):
        arguments = ["basis.conditioning=regmean", *more, *last]
        assert run(settings, tmp_path, *arguments)[0] == 2
        said.append(" ".join(capsys.readouterr().err.split()))
    assert said[0] == said[1] and words in said[0]


def test_a_further_expert_may_not_have_the_name_of_a_task(worlds, tmp_path, capsys):
    settings = worlds(2)
    settings["experts"]["toy_a"] = next(iter(settings["experts"].values()))
    assert run(settings, tmp_path, "--dry-run")[0] == 2
    assert "toy_a is the name of a task" in capsys.readouterr().err


def test_two_experts_of_a_skill_share_its_inputs(worlds):
    settings = worlds(2)
    settings["experts"]["second"] = next(iter(settings["experts"].values()))
    prints = set()
    for task, same in (("toy_a", True), ("toy_b", False)):
        section = {"conditioning": "regmean", "conditioning_tasks": {"second": task}}
        config, made = prepared_from(settings, basis=section | {"keep": False})
        inputs = train_inputs(config, made.tasks, made.model.tokenizer)
        assert list(inputs.sequences) == ["toy_a", "toy_b"]
        for layer in inputs.grams(made.program, made.weights):
            for first, other, second in layer.values():
                np.testing.assert_array_equal(second, first if same else other)
        changed = [
            materialise(made.model.weights, made.basis, expert_genome(made.basis, k))
            for k in (0, 2)
        ]
        for first, second in zip(*map(jax.tree.leaves, changed), strict=True):
            assert not same or np.allclose(first, second, atol=1e-6)
        prints.add(inputs.fingerprint)
    assert len(prints) == 2


def test_conditioning_needs_train_problems(worlds, tmp_path, capsys):
    more = ["basis.conditioning=regmean", "problems.train=0"]
    said = []
    for last in (["--dry-run"], []):
        code, _ = run(worlds(2), tmp_path, *more, *last)
        assert code == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert "regmean needs train problems with known answers, but task toy_a" in said[0]


def prepared_from(settings, **changes):
    config = RunConfig.model_validate(settings | changes)
    return config, setup.prepare(config, None, Observer())


def test_the_expert_as_trained_is_scored_by_its_own_weights(worlds):
    """Only the expert that a rank changes, and with the weights in its folder."""
    config, prepared = prepared_from(worlds(3), basis={"rank": 2, "keep": False})

    class Cached:
        def scores(self, part, individuals, split):
            self.individuals = individuals
            return {}

    cached = Cached()
    trained_experts.measure(prepared.basis, cached)
    assert cached.individuals == {"trained_expert/toy_b": TrainedExpert("toy_b")}
    entry = "toy_task:ToyB"
    whole = WholeModels(prepared.model, {"toy_b": config.experts[entry]})
    got = whole.weights(TrainedExpert("toy_b"))
    expert = load_expert(config.experts[entry], prepared.model)
    for name, weight in expert.weights.items():
        np.testing.assert_array_equal(got[name], weight)
    same = whole.weights(Adapter(config.experts[entry]))
    assert all(np.array_equal(same[name], got[name]) for name in got)
    with pytest.raises(BadInputError, match="'toy_x' is unknown; there are toy_b"):
        whole.weights(TrainedExpert("toy_x"))


def test_a_basis_is_computed_once(worlds, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = worlds(2)
    computed = []
    original = runs_basis.compute_basis

    def counted(*args, **kwargs):
        computed.append(args[2].rank)
        return original(*args, **kwargs)

    monkeypatch.setattr(runs_basis, "compute_basis", counted)
    one, two, three, four = (
        prepared_from(settings, seed=seed, basis={"rank": rank, "keep": keep})[1]
        for seed, rank, keep in [
            (1, "full", True),
            (2, "full", True),  # another search, the same experts: the same basis
            (1, 1, True),
            (1, "full", False),
        ]
    )
    assert computed == ["full", 1, "full"]
    prints = [p.fingerprints["basis"] for p in (one, two, three, four)]
    assert prints[0] == prints[1] == prints[3] != prints[2]
    for other in (two, four):
        for name, u in one.basis.u.items():
            np.testing.assert_array_equal(u, other.basis.u[name])


def test_random_search_has_its_run_and_its_report(worlds, tmp_path, capsys):
    code, folder = run(
        worlds(3), tmp_path, "search=random", "search_settings={low: 0.2, high: 0.6}"
    )
    out = capsys.readouterr().out
    assert code == 0 and "best_of_search" in out and "champion/mean" in out
    report = files.read_json(folder / "report" / "report.json")
    assert report["search"] == "random" and report["result"] == "champion/mean"
    assert report["archives"] == {} and not (folder / "archives.parquet").exists()
    assert "test" in report["models"]["champion/mean"]
    page = (folder / "report" / "report.html").read_text()
    assert "<h2>Archives</h2>" not in page and "search random" in page


@pytest.mark.slow
def test_retention_is_a_behaviour_of_the_archives(worlds, tmp_path, capsys):
    settings = worlds(2)
    kept = "retention={passages: 3, max_bytes: 150, descriptor: true}"
    code, folder = run(settings, tmp_path, kept, "engine.length=96", *SEEING[1:3])
    assert code == 0, capsys.readouterr().err

    def rows(kind, part="*"):
        paths = sorted((folder / kind).glob(f"{part}.parquet"))
        return [row for path in paths for row in files.read_table(path).to_pylist()]

    def nats(texts):
        return np.asarray([row["logprob"] / row["tokens"] for row in texts])

    texts = {}
    for row in rows("logprobs"):
        assert row["task"] == "text"
        texts.setdefault(row["individual"], []).append(row)
    # The base and the experts are read once, before the search.
    assert all(len(own) == 3 for own in texts.values())
    shares = {
        name: np.exp(min(0.0, (nats(own) - nats(texts["base"])).mean()))
        for name, own in texts.items()
    }
    children = rows("metrics")
    whole = [row["individual"] for row in children if row["complete"]]
    assert len(whole) == 2  # the others dropped out of their race
    for row in children:
        assert np.isnan(row["retention"]) != row["complete"]
        if row["complete"]:
            want = shares[row["individual"]]
            assert row["retention"] == pytest.approx(want, abs=1e-12)
    experts = [shares["expert/toy_a"], shares["expert/toy_b"]]
    low, high = 0.85 * min(experts), min(1.15 * max(experts), 1.0)
    state = files.read_json(folder / "state.json")
    assert state["search"]["retention"] == pytest.approx([low, high])
    elites = files.read_table(folder / "archives.parquet").to_pylist()
    for row in elites:
        assert row["retention"] == pytest.approx(shares[row["individual"]], abs=1e-12)
        edges = np.linspace(low, high, 4)
        place = np.clip(np.digitize(row["retention"], edges, right=True) - 1, 0, 2)
        assert len(row["bins"]) == 2 and row["bins"][1] == place
    assert set(state["retention"]) == {model["name"] for model in state["models"]}
    for name in ("base", "expert/toy_a", "uniform_merge"):
        difference = (nats(texts[name]) - nats(texts["base"])).mean()
        got = state["retention"][name]["difference"]
        assert got == pytest.approx(difference, abs=1e-12)
    report = files.read_json(folder / "report" / "report.json")
    for task, entry in report["archives"].items():
        assert entry["elites"] == [row["archive"] for row in elites].count(task)
        assert entry["coverage"] == entry["elites"] / 3**2
    page = (folder / "report" / "report.html").read_text()
    assert f"retention ({low:.3f} to {high:.3f}) as of one more skill" in page
    spent = {row["call"]: row["tokens_forward"] for row in rows("costs", "batch-*1")}
    read = sum(row["tokens"] for name in whole[:1] for row in texts[name])
    assert spent["texts"] == read


SEEING = (
    "fitness={smooth: true}",
    "racing={rungs: 1}",
    "qd={num_generations: 4, children_per_batch: 2, bins: 3, seeds: [1.0]}",
    "retention={passages: 3, max_bytes: 150}",
    "engine.length=96",
)


def test_a_run_with_smooth_scores_races_seeds_and_retention(worlds, tmp_path, capsys):
    """Stopped after two children and resumed, it ends the same, byte for byte."""
    settings, runs = worlds(2), []
    for place, stops in (("whole", ["4"]), ("parts", ["2", "4"])):
        (tmp_path / place).mkdir()
        for stop in stops:
            more = [*SEEING, f"qd.num_generations={stop}", "--resume"]
            code, folder = run(settings, tmp_path / place, *more)
            assert code == 0, capsys.readouterr().err
        contents = run_contents.contents(folder)
        # Places are named in the settings.
        for name in ("config.yaml", "SHA256SUMS"):
            contents.pop(name)
        runs.append(contents)
    assert not run_contents.differences(*runs)
    children = [
        row
        for part in sorted((folder / "metrics").glob("*.parquet"))
        for row in files.read_table(part).to_pylist()
    ]
    assert [row["complete"] for row in children].count(False) == 2
    assert children[0]["parent_1"] is None  # the seed
    assert all(row["smooth/toy_a"] < 0 for row in children if row["complete"])
    state = files.read_json(folder / "state.json")
    assert set(state["retention"]) == {model["name"] for model in state["models"]}
    assert state["retention"]["base"]["difference"] == 0
    cost = run_cost(folder)
    assert {"experts", "search", "champions", "baselines", "test"} <= set(cost)
    for phase, spent in state["cost"].items():
        assert spent["tokens_forward"] == cost[phase].tokens_forward > 0
    page = (folder / "report" / "report.html").read_text()
    assert "<h2>Cost</h2>" in page and "What is kept of plain text" in page
