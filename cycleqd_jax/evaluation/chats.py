"""The chat of one episode, answered by the engine."""

from collections.abc import Sequence

from cycleqd_jax.chat import (
    DEFAULT_CHAT,
    ChatOptions,
    Finish,
    Likelihood,
    Message,
    Reply,
)
from cycleqd_jax.evaluation.chat_tokens import parts, prompt_tokens
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.requests import Limits, Sampling
from cycleqd_jax.inference.slots import Conversation
from cycleqd_jax.models.tokenizer import ChatTokenizer


class EngineChat:
    """A chat with one individual; see `cycleqd_jax.chat.Chat`.

    Attributes:
      replies: so far.
      computed: tokens that went through the model: prompts, less what the cache had,
        and replies.
    """

    def __init__(self, engine: Engine, conversation: Conversation, limit: int):
        """Starts without replies.

        Args:
          engine: generates them.
          conversation: of the individual.
          limit: tokens of a reply.
        """
        self.replies: list[Reply] = []
        self.computed = 0
        self._engine, self._conversation, self._limit = engine, conversation, limit

    def afresh(self) -> "EngineChat":
        """This chat without the replies of an earlier attempt."""
        self.replies.clear()
        self.computed = 0
        return self

    async def __call__(
        self, messages: Sequence[Message], options: ChatOptions = DEFAULT_CHAT
    ) -> Reply:
        """Generates the next reply.

        A prompt that fills the engine's length gets an empty reply, which ends by
        LENGTH.
        """
        reply = await self._reply(messages, options)
        self.replies.append(reply)
        return reply

    async def _reply(self, messages: Sequence[Message], options: ChatOptions) -> Reply:
        tokenizer = self._engine.tokenizer
        limit = min(self._limit, options.max_new_tokens or self._limit)
        prompt = prompt_tokens(tokenizer, messages, options, limit)
        if len(prompt) >= self._engine.settings.length:
            return Reply("", (), len(prompt), Finish.LENGTH)
        got = await self._engine.generate(
            prompt,
            Limits(limit, options.stop_strings),
            sampling=Sampling(
                options.temperature, options.top_k, options.top_p, options.seed
            ),
            conversation=self._conversation,
        )
        self.computed += got.prompt_tokens - got.reused_tokens + len(got.tokens)
        text = got.text
        # Decoded text does not show special tokens, but a stop string may be one.
        stops = _special_ids(tokenizer, options.stop_strings)
        if found := [i for i, token in enumerate(got.tokens) if token in stops]:
            text = tokenizer.decode(got.tokens[: found[0]])
        return Reply(text, got.tokens, got.prompt_tokens, got.finish)

    async def score(
        self,
        messages: Sequence[Message],
        continuation: str,
        options: ChatOptions = DEFAULT_CHAT,
    ) -> Likelihood:
        """Scores a continuation; see `Chat.score`.

        Raises:
          RequestError: it is empty, or longer than the engine's length.
        """
        logprob, is_greedy = 0.0, True
        tokenizer = self._engine.tokenizer
        for tokens, start in parts(tokenizer, messages, continuation, options):
            got = await self._engine.score(
                tokens, start, conversation=self._conversation
            )
            # The last token is only a target.
            self.computed += len(tokens) - 1 - got.reused_tokens
            logprob += got.logprob
            is_greedy &= got.is_greedy
        return Likelihood(logprob, is_greedy)


def _special_ids(tokenizer: ChatTokenizer, texts: Sequence[str]) -> set[int]:
    """Ids of the special tokens that are written as one of some texts."""
    if not texts:
        return set()
    added = tokenizer.hf.added_tokens_decoder.items()
    return {i for i, token in added if token.special and token.content in texts}
