"""Every search behind the door: pure, resumable, deterministic, recorded."""

import types

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from scripted import ScriptedEvaluator

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.evaluation.base import mean_scores
from cycleqd_jax.evaluation.racing import RacingEvaluator
from cycleqd_jax.evaluation.retention import RetentionSettings
from cycleqd_jax.evaluation.rungs import RacingSettings
from cycleqd_jax.evaluation.smooth import FitnessSettings, smooth_scores
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.merging.genome import base_genome, expert_genome
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs import search as runs_search
from cycleqd_jax.runs.checkpoints import Checkpoints, state_fingerprint
from cycleqd_jax.runs.costs import run_cost
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.loop import ask, run_search
from cycleqd_jax.runs.results import (
    EXPERTS_PART,
    read_logprobs,
    recorded_verdicts,
    whole_batches,
    write_episodes,
)
from cycleqd_jax.runs.retention import TextRetention
from cycleqd_jax.search.base import Outcome, Search, Status, candidate
from cycleqd_jax.search.registry import SEARCHES, search_class
from cycleqd_jax.search.requests import GradientRequest, ScoreRequest
from cycleqd_jax.tasks.base import Split
from tests.search.conftest import TRAIN, reading, rule

NAMES = sorted(SEARCHES)
OPTIONS = {
    "gradient": {"problems": 2},  # of 4, so that the key decides which
    "merge": {"factors": [t / 9 for t in range(1, 10)]},  # one per generation
}


def made(name, context):
    return search_class(name)(context(OPTIONS.get(name)))


TEXTS = ("one", "two", "three")


def read(basis, reader):
    """What base and experts have on plain text, as `runs.run` measures it."""
    models = {"base": base_genome(basis)}
    models |= {f"expert/{k}": expert_genome(basis, k) for k in range(3)}
    return TextRetention(TEXTS, reader.score_texts(models, TEXTS).scores)


def begun(search, basis, scripted, smooth=False, retention=None):
    experts = [expert_genome(basis, k) for k in range(3)]
    names = [str(k) for k in range(3)]
    got = scripted.evaluate(
        dict(zip(names, experts, strict=True)), Split.OPTIMISE
    ).episodes
    means = mean_scores(got)
    scores = [[means[name][task] for task in "abc"] for name in names]
    if retention is not None:
        kept = retention.kept()
        shares = np.asarray([kept[f"expert/{k}"] for k in range(3)])
        return search.init(experts, np.asarray(scores), retention=shares)
    if not smooth:
        return search.init(experts, np.asarray(scores))
    found = scripted.score(dict(zip(names, experts, strict=True)), Split.OPTIMISE)
    likely = smooth_scores(found.scores, "abc")
    return search.init(
        experts, np.asarray(scores), smooth=np.asarray([likely[n] for n in names])
    )


def run(search, state, folder, scripted, stop=9, seed=0, **more):
    qd = search.context.qd.model_copy(update={"num_generations": stop})
    with RunFolder(folder, resume=True) as opened:
        with Checkpoints(opened.checkpoints) as checkpoints:
            return run_search(
                search,
                state,
                seed=seed,
                qd=qd,
                evaluator=scripted,
                folder=opened,
                checkpoints=checkpoints,
                observer=Observer(),
                **more,
            )


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_stops_and_resumes_ends_the_same(
    name, context, basis, scripted, tmp_path
):
    search = made(name, context)
    first = begun(search, basis, scripted)
    whole = run(search, first, tmp_path / "whole", scripted)
    run(search, first, tmp_path / "parts", scripted, stop=6)
    again = made(name, context)
    with Checkpoints(tmp_path / "parts" / "checkpoints") as checkpoints:
        saved = checkpoints.restore()
    assert saved.next_generation == 7
    resumed = saved.into(begun(again, basis, scripted))
    resumed = run(again, resumed, tmp_path / "parts", scripted)
    assert state_fingerprint(resumed) == state_fingerprint(whole)
    assert resumed.next_generation == whole.next_generation == 10
    for kind in ("results", "metrics", "costs"):
        parts = sorted((tmp_path / "whole" / kind).glob("*.parquet"))
        assert len(parts) == 3
        for part in parts:
            other = tmp_path / "parts" / kind / part.name
            assert part.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_tasks_without_an_expert_and_experts_without_a_task(
    name, context, basis, scripted, tmp_path
):
    """Of the tasks "x" and "a" only the second has an expert; there are two more."""
    tasks = tuple(types.SimpleNamespace(name=n, problems=scripted.tasks[0].problems)
                  for n in ("x", "a"))  # fmt: skip
    names = tuple(task.name for task in tasks)
    rules = ScriptedEvaluator(tasks, lambda individual, task, i: float(i % 2))
    own = context(OPTIONS.get(name))._replace(tasks=names, entries=names)
    search = search_class(name)(own._replace(train=dict.fromkeys(names, TRAIN["a"])))
    assert search.context.own_experts == (-1, 0)
    experts = [expert_genome(basis, k) for k in range(3)]
    state = search.init(experts, np.full((3, 2), 0.5))
    state = run(search, state, tmp_path, rules)
    assert state.bank.next_id == 12 and state.bank.num_experts == 3
    known = {"expert/a", "expert/b", "expert/c", None}
    known |= {f"child/{t}" for t in range(1, 10)}
    for part in sorted((tmp_path / "metrics").glob("*.parquet")):
        for row in pq.read_table(part).to_pylist():
            assert {row["parent_1"], row["parent_2"]} <= known
            assert row["active_task"] in (None, *names)


@pytest.mark.parametrize("name", NAMES)
def test_smooth_scores_are_recorded_and_resumed(name, context, basis, seeing, tmp_path):
    search = made(name, context)
    on = {"fitness": FitnessSettings(smooth=True)}
    first = begun(search, basis, seeing, smooth=True)
    whole = run(search, first, tmp_path / "whole", seeing, **on)
    run(search, first, tmp_path / "parts", seeing, stop=6, **on)
    with Checkpoints(tmp_path / "parts" / "checkpoints") as checkpoints:
        saved = checkpoints.restore()
    resumed = saved.into(begun(search, basis, seeing, smooth=True))
    resumed = run(search, resumed, tmp_path / "parts", seeing, **on)
    assert state_fingerprint(resumed) == state_fingerprint(whole)
    rows = []
    for kind in ("results", "metrics", "logprobs", "costs"):
        for part in sorted((tmp_path / "whole" / kind).glob("*.parquet")):
            other = tmp_path / "parts" / kind / part.name
            assert part.read_bytes() == other.read_bytes()
            rows += pq.read_table(part).to_pylist() if kind == "metrics" else []
    smooth = whole.bank.smooth
    assert np.isfinite(smooth[:, :2]).all() and np.isnan(smooth[:, 2]).all()
    for row, known in zip(rows, smooth[3:], strict=True):
        assert row["smooth/a"] == known[0] and np.isnan(row["smooth/c"])
    with RunFolder(tmp_path / "whole", resume=True) as folder:
        scored = read_logprobs(folder, "batch-000001")
        assert len(scored) == 3 * 12 and scored[0].logprob <= 0
        assert {s.task for s in scored if s.logprob is None} == {"c"}
        assert whole_batches(folder, logprobs=True)[0] == 9
        folder.part("logprobs", "batch-000004").unlink()
        assert whole_batches(folder)[0] == 9
        assert whole_batches(folder, logprobs=True)[0] == 3


RETAINING = ("cycleqd", "map_elites")


@pytest.mark.parametrize("name", RETAINING)
def test_retention_is_a_behaviour_recorded_and_resumed(
    name, context, basis, reader, tmp_path
):
    search, retention = made(name, context), read(basis, reader)
    on = {"retention": retention}
    first = begun(search, basis, reader, **on)
    whole = run(search, first, tmp_path / "whole", reader, **on)
    run(search, first, tmp_path / "parts", reader, stop=6, **on)
    with Checkpoints(tmp_path / "parts" / "checkpoints") as checkpoints:
        saved = checkpoints.restore()
    resumed = saved.into(begun(made(name, context), basis, reader, **on))
    resumed = run(search, resumed, tmp_path / "parts", reader, **on)
    assert state_fingerprint(resumed) == state_fingerprint(whole)
    rows = []
    for kind in ("results", "metrics", "logprobs", "costs"):
        for part in sorted((tmp_path / "whole" / kind).glob("*.parquet")):
            other = tmp_path / "parts" / kind / part.name
            assert part.read_bytes() == other.read_bytes()
            rows += pq.read_table(part).to_pylist() if kind == "metrics" else []
    for i, genome in whole.bank.genomes.items():
        nats = [reading(genome, k) - -2.0 for k in range(3)]  # of two tokens a text
        want = np.exp(min(0.0, np.mean(nats) / 2))
        assert whole.bank.retention[i] == pytest.approx(want, abs=1e-15)
    kept = whole.bank.retention
    assert [row["retention"] for row in rows] == kept[3:].tolist()
    assert np.isfinite(kept).all() and len(set(kept[3:])) > 1
    low, high = 0.85 * kept[:3].min(), min(1.15 * kept[:3].max(), 1.0)
    summary, bins = search.summary(whole), search.context.qd.bins
    edges = np.linspace(low, high, bins + 1)
    for row in summary.archives:
        share = kept[row["individual"]]
        place = np.digitize(share, edges, right=True) - 1
        assert row["retention"] == share and row["bins"][-1] == place
        assert len(row["bins"]) == (3 if name == "cycleqd" else 4)
    cells = sum(
        leaf.size for leaf in jax.tree.leaves(whole.memory) if leaf.dtype == np.int32
    )
    assert cells - 3 * (name == "cycleqd") == search.cells(search.context.qd, 3) * bins
    with RunFolder(tmp_path / "whole", resume=True) as folder:
        assert len(read_logprobs(folder, "batch-000001")) == 3 * len(TEXTS)
        spent = folder.read_part("costs", "batch-000001").to_pylist()
        tokens = {row["call"]: row["tokens_forward"] for row in spent}
        assert tokens == {"evaluate": 3 * 12 * 2, "texts": 3 * 2 * len(TEXTS)}
        folder.part("logprobs", "batch-000004").unlink()
        assert whole_batches(folder, logprobs=True)[0] == 3


@pytest.mark.parametrize("name", NAMES)
def test_retention_is_refused_where_there_are_no_archives_for_it(name, context, basis):
    config = types.SimpleNamespace(
        search=name,
        search_settings=OPTIONS.get(name, {}),
        qd=context().qd,
        tasks=("a", "b", "c"),
        fitness=FitnessSettings(),
        retention=RetentionSettings(passages=1, descriptor=True),
        engine=EngineSettings(),
    )
    if name in RETAINING:
        assert runs_search.make_search(config, basis, "abc")
        return
    with pytest.raises(BadInputError, match=f"search {name} has no archives that take"):
        runs_search.make_search(config, basis, "abc")


@pytest.mark.parametrize("name", NAMES)
def test_candidates_depend_on_key_state_and_t_alone(name, context, basis, scripted):
    search = made(name, context)
    state = begun(search, basis, scripted)
    key = jax.random.key(5)
    together = ask(search, state, key, (1, 2, 3), scripted)
    alone = [ask(search, state, key, (t,), scripted) for t in (1, 2, 3)]
    for i, one in enumerate(alone):
        want = candidate(together, i)
        assert one.ts == want.ts and one.lineage == want.lineage
        for got, same in zip(
            jax.tree.leaves(one.genomes), jax.tree.leaves(want.genomes), strict=True
        ):
            np.testing.assert_array_equal(got, same)
    if name == "merge":  # draws nothing
        return
    other = ask(search, state, jax.random.key(6), (1,), scripted)
    assert not np.array_equal(
        other.genomes[0].coefficients, together.genomes[0].coefficients
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_rejected_candidate_is_recorded_and_never_a_champion(
    name, context, basis, scripted
):
    search = made(name, context)
    state = begun(search, basis, scripted)
    asked = ask(search, state, jax.random.key(0), (1, 2), scripted)
    perfect = (1.0, 1.0, 1.0)
    outcomes = [Outcome(perfect, Status.REJECTED), Outcome((0.25, 0.5, 0.25))]
    state = search.tell(state, asked, outcomes)
    assert state.bank.scores[3].tolist() == list(perfect)
    assert state.bank.complete.tolist() == [True] * 3 + [False, True]
    found = search.champions(state)
    named = {one.individual for best in found.contenders.values() for one in best}
    assert 3 not in named and found.best != 3
    assert state.next_generation == 3


@pytest.mark.parametrize("name", NAMES)
def test_metrics_have_a_row_per_child(name, context, basis, scripted, tmp_path):
    search = made(name, context)
    run(search, begun(search, basis, scripted), tmp_path, scripted)
    rows = []
    for part in sorted((tmp_path / "metrics").glob("*.parquet")):
        rows += pq.read_table(part).to_pylist()
    assert [row["individual"] for row in rows] == [f"child/{t}" for t in range(1, 10)]
    for row in rows:
        assert {"score/a", "best/a", "parent_1", "active_task"} <= set(row)
    bests = [row["best/b"] for row in rows]
    assert bests == sorted(bests)


def test_random_search_draws_factors_between_its_limits(context, basis, scripted):
    search = search_class("random")(context({"low": 0.25, "high": 0.5}))
    state = begun(search, basis, scripted)
    asked = search.ask(state, jax.random.key(1), tuple(range(1, 40)))
    scales = np.stack([genome.scales for genome in asked.genomes])
    assert scales.min() >= 0.25 and scales.max() <= 0.5
    assert scales.std(axis=0).min() > 0.05
    want = np.asarray(basis.singular_values) * scales[7][np.asarray(basis.experts_of)]
    np.testing.assert_allclose(asked.genomes[7].coefficients, want, rtol=1e-6)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"low": 1.0, "high": 0.5}, "search_settings.low is 1.0"),
        ({"lo": 1.0}, "lo"),
        ({"low": "x"}, "low"),
    ],
)
def test_wrong_settings_of_a_search_are_one_sentence(context, options, said):
    with pytest.raises(BadInputError, match=said):
        search_class("random")(context(options))


class Unfinished(Search):
    pass


@pytest.mark.parametrize(
    "name, said",
    [
        ("nothing", "expected cycleqd, .*random, .*or an import path"),
        ("no_such_module:Search", "could not be imported"),
        ("json:Nothing", "could not be imported"),
        ("json:JSONDecoder", "expected a subclass"),
        (f"{__name__}:Unfinished", "lacks the methods ask, champions, init, tell"),
    ],
)
def test_a_search_that_cannot_be_used_is_refused(name, said, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules[Unfinished.__module__])
    with pytest.raises(BadInputError, match=said):
        search_class(name)


def test_the_memory_of_another_search_is_refused(context, basis, scripted, tmp_path):
    cycleqd = search_class("cycleqd")(context())
    run(cycleqd, begun(cycleqd, basis, scripted), tmp_path, scripted, stop=3)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        saved = checkpoints.restore()
    random = search_class("random")(context())
    with pytest.raises(BadInputError, match="memory of another search"):
        saved.into(begun(random, basis, scripted))


class Asking(SEARCHES["random"]):
    """Moves each candidate by a gradient, after a look at its losses."""

    @classmethod
    def uses_train(cls, qd, options):
        return "search: asking"

    def ask(self, state, key, ts, answers=()):
        drawn = super().ask(state, key, ts)
        problems = {task: ids[:2] for task, ids in self.context.train.items()}
        if not answers:
            return ScoreRequest(drawn.genomes, (problems,) * len(ts))
        if len(answers) == 1:
            weights = np.ones((len(ts), 3), np.float32)
            of_a = {"a": problems["a"]}
            return GradientRequest(drawn.genomes, weights, (of_a,) * len(ts))
        losses, slopes = answers[0].losses, answers[1].gradients
        moved = tuple(
            genome.replace(coefficients=genome.coefficients - slope)
            for genome, slope in zip(drawn.genomes, slopes, strict=True)
        )
        self.seen = losses, answers[1].losses
        return drawn._replace(genomes=moved)


def test_requests_are_answered_before_candidates_are_evaluated(
    context, basis, scripted
):
    asking = Asking(context())
    plain = SEARCHES["random"](context())
    state = begun(plain, basis, scripted)
    key, ts = jax.random.key(0), (1, 2)
    want = plain.ask(state, key, ts)
    got = ask(asking, state, key, ts, scripted)
    losses, of_a = asking.seen
    for i, genome in enumerate(want.genomes):
        expected = [
            1 - np.mean([rule(genome, task, index) for index in (0, 1)])
            for task in "abc"
        ]
        np.testing.assert_allclose(losses[i], expected)
        assert of_a[i, 0] == losses[i, 0] and np.isnan(of_a[i, 1:]).all()
        np.testing.assert_allclose(
            got.genomes[i].coefficients,
            (1 - np.float32(losses[i, 0])) * genome.coefficients,
            rtol=1e-6,
        )
    assert got.ts == want.ts and got.lineage == want.lineage


@pytest.mark.parametrize("name", NAMES)
def test_a_raced_run_resumes_and_keeps_who_was_rejected_apart(
    name, context, basis, seeing, tmp_path
):
    """As `runs.run` does it: a new race is told what the results on record say."""
    search = made(name, context)
    on = {"fitness": FitnessSettings(smooth=True)}
    first = begun(search, basis, seeing, smooth=True)

    def raced(folder, state, stop=9):
        experts = {f"expert/{k}": expert_genome(basis, k) for k in range(3)}
        with RunFolder(folder, resume=True) as opened:
            episodes, _ = seeing.evaluate(experts, Split.OPTIMISE)
            write_episodes(opened, EXPERTS_PART, episodes)
            record = list(recorded_verdicts(opened))
        settings = RacingSettings(rungs=1)
        racing = RacingEvaluator(seeing, settings, record=record)
        return run(search, state, folder, racing, stop=stop, **on)

    whole = raced(tmp_path / "whole", first)
    raced(tmp_path / "parts", first, stop=6)
    with Checkpoints(tmp_path / "parts" / "checkpoints") as checkpoints:
        saved = checkpoints.restore()
    resumed = raced(tmp_path / "parts", saved.into(first))
    assert state_fingerprint(resumed) == state_fingerprint(whole)
    for kind in ("results", "metrics", "logprobs", "costs"):
        for part in sorted((tmp_path / "whole" / kind).glob("*.parquet")):
            other = tmp_path / "parts" / kind / part.name
            assert part.read_bytes() == other.read_bytes()
    complete = whole.bank.complete
    assert complete.tolist().count(False) == 3  # one of every batch of three
    found = search.champions(whole)
    named = {one.individual for best in found.contenders.values() for one in best}
    assert not named & set(np.flatnonzero(~complete).tolist())
    assert np.isnan(whole.bank.smooth[~complete]).all()
    rows = pq.read_table(tmp_path / "whole" / "metrics" / "batch-000001.parquet")
    assert rows.column("complete").to_pylist() == complete[3:6].tolist()


def test_the_costs_of_a_batch_are_those_of_all_its_calls(
    context, basis, seeing, tasks, tmp_path
):
    """Two requests, nine candidates on twelve problems: two tokens for an episode, one
    for a log-probability."""
    train = {t.name: tuple(p.id for p in t.problems(Split.TRAIN)) for t in tasks}
    asking = Asking(context()._replace(train=train))
    state = begun(asking, basis, seeing, smooth=True)
    run(asking, state, tmp_path, seeing, fitness=FitnessSettings(smooth=True))
    [first, *_] = sorted((tmp_path / "costs").glob("*.parquet"))
    rows = {row.pop("call"): row for row in pq.read_table(first).to_pylist()}
    forward = {call: row["tokens_forward"] for call, row in rows.items()}
    assert forward == {
        "evaluate": 3 * 12 * 2,
        "gradient": 3 * 2,
        "score": 3 * 6,
        "smooth": 3 * 12,
    }
    backward = {call: row["tokens_backward"] for call, row in rows.items()}
    assert backward == {"evaluate": 0, "gradient": 3 * 2, "score": 0, "smooth": 0}
    cost = run_cost(tmp_path)["search"]
    assert cost.tokens_forward == 3 * sum(forward.values())
    assert cost.tokens == cost.tokens_forward + 2 * 3 * 6 and cost.seconds > 0


class Blind(SEARCHES["random"]):
    def init(self, experts, scores):
        return super().init(experts, scores)


def test_smooth_scores_are_refused_where_nothing_comes_of_them(
    context, basis, tasks, monkeypatch
):
    config = types.SimpleNamespace(
        search="mine:Blind",
        search_settings={},
        qd=context().qd,
        tasks=("a", "b", "c"),
        fitness=FitnessSettings(smooth=True),
        retention=RetentionSettings(),
    )
    for task in tasks:
        task.dialogue = lambda problem: []
    monkeypatch.setattr(runs_search, "search_class", lambda name: Blind)
    with pytest.raises(BadInputError, match="mine:Blind takes no smooth scores"):
        runs_search.make_search(config, basis, "abc", tasks)
    config.fitness = FitnessSettings()
    assert runs_search.make_search(config, basis, "abc", tasks).name == "mine:Blind"
    monkeypatch.undo()
    config.search, config.fitness = "random", FitnessSettings(smooth=True)
    for task in tasks:
        task.reference = lambda problem: None
    with pytest.raises(BadInputError, match="no task knows the right answer"):
        runs_search.make_search(config, basis, "abc", tasks)
    assert runs_search.make_search(config, basis, "abc")  # only planned


def test_what_no_checkpoint_counts_is_played_again(context, basis, scripted, tmp_path):
    """A run that is killed between its results and its checkpoint leaves them."""
    search = made("random", context)
    state = run(search, begun(search, basis, scripted), tmp_path, scripted, stop=3)
    whole = run(search, state, tmp_path, scripted)
    again = run(search, state, tmp_path, scripted)
    assert state_fingerprint(again) == state_fingerprint(whole)


def test_an_evaluator_that_leaves_a_task_out_is_named(context, basis, tasks, tmp_path):
    class Forgetful(ScriptedEvaluator):
        def evaluate(self, individuals, split, **more):
            found = super().evaluate(individuals, split, **more)
            return found._replace(episodes=[e for e in found.episodes if e.task != "b"])

    search = made("random", context)
    state = begun(search, basis, ScriptedEvaluator(tasks, rule))
    with pytest.raises(RunError, match=r"Forgetful\.evaluate .* child/1 has none on b"):
        run(search, state, tmp_path, Forgetful(tasks, rule))
