"""One question to several individuals, and one answer of them all."""

import asyncio
import collections
from collections.abc import Mapping, Sequence

from cycleqd_jax.chat import Message
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.inference.requests import GREEDY, Generation, Limits
from cycleqd_jax.serving.catalogue import Catalogue
from cycleqd_jax.serving.desk import Desk
from cycleqd_jax.serving.errors import ApiError
from cycleqd_jax.serving.replies import Job, Unit, answer_all, check_prompt


def check_names(catalogue: Catalogue, names: Sequence[str]) -> None:
    """Refuses names that no model has; loads nothing.

    Raises:
      BadInputError: a name is unknown, or the run cannot be read.
    """
    try:
        for name in names:
            catalogue.model(name)
    except ApiError as err:
        raise BadInputError(str(err)) from err


def ask_all(
    desk: Desk,
    catalogue: Catalogue,
    names: Sequence[str],
    messages: Sequence[Message],
    max_new_tokens: int,
) -> dict[str, Generation]:
    """The greedy reply of each individual, with log-probabilities, by its name.

    Raises:
      BadInputError: a name is unknown, or the question does not fit.
    """
    engine = desk.engine
    prompt = tuple(engine.encode(messages))

    async def ask(name: str) -> Generation:
        model, individual = catalogue.find(name)
        unit = Unit(prompt, GREEDY)
        limits = Limits(max_new_tokens)
        job = Job(model.individual, individual, (unit,), 1, limits, logprobs=True)
        [answer] = await answer_all(desk, job)
        return answer.generation

    async def ask_everyone() -> list[Generation]:
        async with desk.serving():
            return await asyncio.gather(*map(ask, names))

    try:
        check_prompt(prompt, engine.settings.length, replies=True)
        for name in names:
            catalogue.find(name)
        replies = asyncio.run(ask_everyone())
    except ApiError as err:
        raise BadInputError(str(err)) from err
    return dict(zip(names, replies, strict=True))


def likeliest_reply(replies: Mapping[str, Generation]) -> str:
    """The individual whose reply has the highest mean log-probability per token.

    Each reply is scored by its own individual; the first of equals is returned.
    """

    def mean(name: str) -> float:
        logprobs = replies[name].logprobs
        return sum(logprobs) / len(logprobs)

    return max(replies, key=mean)


def majority(replies: Mapping[str, Generation]) -> tuple[str, int]:
    """An individual whose text most individuals gave, and their number.

    Texts are compared without the white space around them. Of equally frequent ones it
    is that which has the likeliest reply.
    """
    texts = {name: reply.text.strip() for name, reply in replies.items()}
    counts = collections.Counter(texts.values())
    most = max(counts.values())
    left = {n: reply for n, reply in replies.items() if counts[texts[n]] == most}
    return likeliest_reply(left), most
