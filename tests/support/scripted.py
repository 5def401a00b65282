"""An evaluator without a model: a function says what every individual scores."""

from collections.abc import Callable, Mapping

import numpy as np

from cycleqd_jax.evaluation.base import (
    Cost,
    Episode,
    Evaluation,
    Gradients,
    ReferenceScore,
    Replies,
    Scoring,
    mean_losses,
    select_problems,
)
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.tasks.base import Split

Rule = Callable[[Individual, str, int], float]  # individual, task, problem's index


class ScriptedEvaluator:
    """Scores each problem by a rule; losses are 1 - score, slopes loss times genome.

    Another rule, `likelihood`, may give the log-probability of a problem's reference
    answer, NaN where there is none. `reading(individual, i)` is that of text i; every
    text has two tokens. `replies` has those of every call of `gradient`.
    """

    def __init__(self, tasks, rule: Rule, likelihood: Rule | None = None, reading=None):
        self.tasks = tuple(tasks)
        self._likelihood = likelihood or (lambda *which: rule(*which) - 1.0)
        self.calls: list[tuple[tuple[str, ...], Split]] = []
        self._rule = rule
        self._reading = reading
        self.replies: list[Replies | None] = []

    def _rows(self, individuals: Mapping[str, Individual], split, problems, rule):
        self.calls.append((tuple(individuals), split))
        chosen = select_problems(self.tasks, split, problems)
        for name, individual in individuals.items():
            for task, problem in chosen:
                index = [p.id for p in task.problems(split)].index(problem.id)
                yield name, task, problem, rule(individual, task.name, index)

    def evaluate(self, individuals, split, *, problems=None, progress=None):
        episodes = [
            Episode(
                individual=name,
                split=str(split),
                task=task.name,
                problem=problem.id,
                outcome="solved" if score else "wrong",
                score=score,
                answer="a",
                reply="a",
                explanation="scripted",
                turns=1,
                prompt_tokens=1,
                tokens=(1,),
                finish="stop",
                replies=("a",),
                metrics={},
                seconds=0.0,
            )
            for name, task, problem, score in self._rows(
                individuals, split, problems, self._rule
            )
        ]
        return Evaluation(episodes, Cost(2 * len(episodes), 0, 0.0))

    def score(self, individuals, split, *, problems=None, progress=None):
        scores = [
            ReferenceScore(
                name,
                str(split),
                task.name,
                problem.id,
                None if np.isnan(logprob) else logprob,
                1,
            )
            for name, task, problem, logprob in self._rows(
                individuals, split, problems, self._likelihood
            )
        ]
        return Scoring(scores, Cost(len(scores), 0, 0.0))

    def evaluate_and_score(self, individuals, split, **more):
        return self.evaluate(individuals, split, **more), self.score(
            individuals, split, **more
        )

    def score_texts(self, individuals, texts, *, progress=None):
        scores = [
            ReferenceScore(name, "text", "text", f"text/{i}", self._reading(one, i), 2)
            for name, one in individuals.items()
            for i in range(len(texts))
        ]
        return Scoring(scores, Cost(2 * len(scores), 0, 0.0))

    def gradient(self, genomes, task_weights, split, *, problems, replies=None):
        self.replies.append(replies)
        losses = np.full((len(genomes), len(self.tasks)), np.nan)
        tokens = 0
        for i, (genome, own) in enumerate(zip(genomes, problems, strict=True)):
            scoring = self.score({"one": genome}, split, problems=own)
            means = mean_losses(scoring.scores)["one"]
            losses[i] = [means.get(task.name, np.nan) for task in self.tasks]
            tokens += scoring.cost.tokens_forward
        weighted = np.nansum(losses * task_weights, axis=1, keepdims=True)
        slopes = [weighted[i] * genome.coefficients for i, genome in enumerate(genomes)]
        return Gradients(
            losses, np.asarray(slopes, np.float32), Cost(tokens, tokens, 0.0)
        )
