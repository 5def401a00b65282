"""Our models as models of lm-evaluation-harness.

Text becomes tokens exactly as in the harness's own `hf` model: where context and
continuation part, when a beginning-of-sequence token is put in front, what is cut off
on the left, which windows a long text is read in, and where a reply ends.

Needs the extra `language`; `language.py` imports this module when it is wanted.
"""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import transformers
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.evaluation.language.engine import Continuation, Likelihood, Panel
from cycleqd_jax.inference.requests import Generation, Limits, Sampling
from cycleqd_jax.models.tokenizer import ChatTokenizer

_MAX_GEN_TOKS = 256  # of the `hf` model, where a task has no limit of its own
_TOP_K = 50  # of transformers, where a task draws and does not say
# Settings of generation that change nothing at these values.
_NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0}


def harness_tokenizer(tokenizer: ChatTokenizer) -> Any:
    """The `transformers` tokeniser that the `hf` model would use.

    Args:
      tokenizer: of the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


class Shared:
    """What individuals were asked together, and what each of them answered.

    The harness evaluates one model at a time. The first pass over a task puts its
    requests to all individuals; in the passes of the others the same requests find
    their answers here.
    """

    def __init__(self, panel: Panel):
        self._panel = panel
        self._calls: list[tuple[list, list[list]]] = []

    def answers(self, number: int, questions: list, individual: int) -> list:
        """One individual's answers to the questions of a call.

        Args:
          number: of the call, counted from 0 in every pass.
          questions: of the call.
          individual: whose pass it is.

        Raises:
          RunError: another pass asked something else.
        """
        if number == len(self._calls):
            self._calls.append((questions, self._panel.ask(questions)))
        asked, answers = self._calls[number]
        if asked != questions:
            raise RunError(
                "language: a task asks other questions in every pass, so individuals "
                "cannot share them; set individuals_per_pass=1."
            )
        return answers[individual]


class EngineLM(TemplateLM):
    """One individual, for one pass of the harness.

    Attributes:
      tokenizer: see `harness_tokenizer`.
    """

    def __init__(
        self,
        shared: Shared,
        tokenizer: Any,
        *,
        max_length: int,
        individual: int = 0,
        chat_template_args: Mapping[str, Any] | None = None,
        seed: int = 0,
    ):
        """Describes it.

        Args:
          shared: the answers of all individuals of this task.
          tokenizer: see `harness_tokenizer`.
          max_length: tokens of the longest context; what is before them is cut off.
          individual: its place among those that share the answers.
          chat_template_args: for the chat template.
          seed: of requests that draw.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self._shared = shared
        self._individual = individual
        self._max_length = max_length
        self._chat_template_args = dict(chat_template_args or {})
        self._seed = seed
        self._calls = 0
        self._special = {  # text -> id of tokens that are left out of decoded text
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special
        }

    @property
    def eot_token_id(self) -> int:
        """The end-of-sequence token."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is taken for."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        """Tokens of the longest context."""
        return self._max_length

    @property
    def max_gen_toks(self) -> int:
        """Tokens of a reply where the task does not say."""
        return _MAX_GEN_TOKS

    @property
    def tokenizer_name(self) -> str:
        """Of the harness's cache of requests, which we do not use."""
        return "cycleqd_jax"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; a beginning-of-sequence token is never put in front twice.

        Args:
          string: text.
          add_special_tokens: None for what the tokeniser does by itself.
          kwargs: nothing else is known.
        """
        if add_special_tokens is None:
            if not string.startswith(self.tokenizer.decode(self.prefix_token_id)):
                return self.tokenizer.encode(string)
            add_special_tokens = False
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of whole texts, in windows that do not overlap.

        Args:
          requests: with the text each.
          disable_tqdm: there is no bar anyway.
        """
        windows, counts = [], []
        for request in requests:
            found = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._max_length,
                context_len=1,
            )
            own = [(None, *make_disjoint_window(window)) for window in found]
            windows += own
            counts.append(len(own))
        scores = iter(self._loglikelihood_tokens(windows))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def generate_until(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[str]:
        """Replies, up to where each request says that they end.

        Args:
          requests: with prompt and settings of generation each.
          disable_tqdm: there is no bar anyway.
        """
        eos = self.tokenizer.decode(self.eot_token_id)
        questions, stops = [], []
        for number, request in enumerate(requests):
            prompt, settings = request.args
            known = normalize_gen_kwargs(settings, _MAX_GEN_TOKS)
            until = handle_stop_sequences(list(known.pop("until")), eos=eos)
            limit = known.pop("max_gen_toks")
            sampling = _sampling(request, known, self._seed, number)
            room = self._max_length - limit
            if room < 1:
                raise BadInputError(
                    f"language: task {request.task_name} asks for replies of {limit} "
                    f"tokens, which leave no room for a prompt in max_length, "
                    f"{self._max_length}."
                )
            tokens = self.tok_encode(prompt)[-room:] or [self.prefix_token_id]
            stops.append(until)
            texts = (stop for stop in until if stop and stop not in self._special)
            limits = Limits(limit, tuple(texts))
            questions.append(Continuation(tuple(tokens), limits, sampling))
        return [
            self._text(answer, until)
            for answer, until in zip(self._answers(questions), stops, strict=True)
        ]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as text; where the template has no system role, without its message.

        Args:
          chat_history: messages.
          add_generation_prompt: False where the last message is the reply's beginning.
        """

        def render(messages: list[dict[str, str]]) -> str:
            return self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self._chat_template_args,
            )

        try:
            return render(chat_history)
        except jinja2.TemplateError:
            return render([m for m in chat_history if m["role"] != "system"])

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        questions = []
        for strings, context, continuation in requests:
            if not 1 <= len(continuation) <= self._max_length:
                raise BadInputError(
                    f"language: a continuation has {len(continuation)} tokens; "
                    f"expected 1 to max_length, {self._max_length}, of {strings!r}."
                )
            tokens = (context + continuation)[-(self._max_length + 1) :]
            start = len(tokens) - len(continuation)
            questions.append(Likelihood(tuple(tokens), start))
        return [(a.logprob, a.is_greedy) for a in self._answers(questions)]

    def _answers(self, questions: list) -> list:
        number, self._calls = self._calls, self._calls + 1
        return self._shared.answers(number, questions, self._individual)

    def _text(self, reply: Generation, until: Sequence[str]) -> str:
        """A reply's text, cut as the `hf` model cuts it."""
        tokens = list(reply.tokens)
        # Special tokens are no text, but a task may name one as its stop string.
        ids = {self._special[stop] for stop in until if stop in self._special}
        end = next((i for i, token in enumerate(tokens) if token in ids), len(tokens))
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return postprocess_generated_text(text, list(until), None)


def _sampling(
    request: Instance, settings: Mapping[str, Any], seed: int, number: int
) -> Sampling:
    """How a request draws; each one with a seed of its own.

    Raises:
      BadInputError: it asks for something that the engine does not do.
    """
    settings = dict(settings)
    draws = settings.pop("do_sample")
    temperature = settings.pop("temperature", 1.0 if draws else 0.0)
    top_k, top_p = settings.pop("top_k", _TOP_K), settings.pop("top_p", 1.0)
    for name, value in settings.items():
        if name not in _NEUTRAL or value != _NEUTRAL[name]:
            raise BadInputError(
                f"language: task {request.task_name} asks for {name}={value!r} in "
                "generation_kwargs; expected until, max_gen_toks, do_sample, "
                "temperature, top_k and top_p."
            )
    if not draws or not temperature:
        return Sampling()
    own = (seed * 1_000_003 + number) % 2**32
    return Sampling(float(temperature), top_k=int(top_k), top_p=float(top_p), seed=own)
