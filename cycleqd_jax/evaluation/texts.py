"""Log-probabilities of plain texts, without a chat template."""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from cycleqd_jax.errors import RunError
from cycleqd_jax.evaluation.base import Progress, ReferenceScore
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.inference.requests import NotFiniteError
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.models.tokenizer import ChatTokenizer

TEXT = "text"  # split and task of plain texts


def text_tokens(text: str, tokenizer: ChatTokenizer) -> tuple[int, ...]:
    """A text as tokens, after the one that stands for what came before it.

    All tokens but that one are scored.
    """
    return (tokenizer.begin_id, *tokenizer.encode(text))


def text_scores(
    loader: IndividualLoader,
    individuals: Mapping[str, Individual],
    texts: Sequence[str],
    progress: Progress | None,
) -> Coroutine[Any, Any, list[list[ReferenceScore]]]:
    """Scores of every individual, in order, on all texts, in order.

    See `LocalEvaluator.score_texts`.
    """
    rows = [text_tokens(text, loader.engine.tokenizer) for text in texts]
    counted = _counter(progress, len(individuals) * len(rows))

    async def score(name: str, row: int, i: int) -> ReferenceScore:
        try:
            got = await loader.engine.score(rows[i], 1, individual=row)
        except NotFiniteError as err:
            raise RunError(f"{name} on text {i}: {err}.") from err
        counted()
        tokens = len(rows[i]) - 1
        return ReferenceScore(name, TEXT, TEXT, f"{TEXT}/{i}", got.logprob, tokens)

    def jobs(name: str, row: int) -> Iterator[Coroutine]:
        return (score(name, row, i) for i in range(len(rows)))

    return loader.run(individuals, jobs)


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def counted() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return counted
