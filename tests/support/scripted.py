"""An evaluator without a model: a function says what every individual scores."""

from collections.abc import Callable, Mapping

from cycleqd_jax.evaluation.base import (
    Cost,
    Episode,
    Evaluation,
    ReferenceScore,
    Scoring,
    select_problems,
)
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.tasks.base import Split

Rule = Callable[[Individual, str, int], float]  # individual, task, problem's index


class ScriptedEvaluator:
    """Scores each problem by a rule; log-probabilities are the scores' negatives."""

    def __init__(self, tasks, rule: Rule):
        self.tasks = tuple(tasks)
        self.calls: list[tuple[tuple[str, ...], Split]] = []
        self._rule = rule

    def _rows(self, individuals: Mapping[str, Individual], split, problems):
        self.calls.append((tuple(individuals), split))
        chosen = select_problems(self.tasks, split, problems)
        for name, individual in individuals.items():
            for task, problem in chosen:
                index = [p.id for p in task.problems(split)].index(problem.id)
                yield name, task, problem, self._rule(individual, task.name, index)

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
            for name, task, problem, score in self._rows(individuals, split, problems)
        ]
        return Evaluation(episodes, Cost(2 * len(episodes), 0, 0.0))

    def score(self, individuals, split, *, problems=None, progress=None):
        scores = [
            ReferenceScore(name, str(split), task.name, problem.id, score - 1.0, 1)
            for name, task, problem, score in self._rows(individuals, split, problems)
        ]
        return Scoring(scores, Cost(len(scores), 0, 0.0))
