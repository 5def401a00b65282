"""An individual as a model of lm-evaluation-harness.

Text becomes tokens, and tokens text, exactly as in the harness's own `hf` model. Needs
the extra `language`.
"""

from typing import Any

import jinja2
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.language.panel import Panel, Question
from cycleqd_jax.evaluation.language.settings import HarnessSettings
from cycleqd_jax.inference.requests import Generation, Limits, Sampling
from cycleqd_jax.models.tokenizer import ChatTokenizer

_MAX_GEN_TOKS = 256  # the `hf` model's, where a task has no limit of its own
_TOP_K = 50  # the default of transformers, where a task draws
# These settings of generation change nothing at these values.
_NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0}


class EngineLM(TemplateLM):
    """One individual of a panel.

    Attributes:
      tokenizer: the `transformers` tokeniser.
      eot_token_id: the end-of-sequence token.
      prefix_token_id: the token that replaces an empty context.
      tokenizer_name: of the harness's cache of requests, which is not used.
    """

    eot_token_id = prefix_token_id = -1  # abstract in the harness; set by __init__
    tokenizer_name = "cycleqd_jax"

    def __init__(
        self,
        panel: Panel,
        name: str,
        tokenizer: ChatTokenizer,
        settings: HarnessSettings,
        max_length: int,
    ):
        """Describes it.

        Args:
          panel: answers questions.
          name: the individual's, in the panel.
          tokenizer: the model's.
          settings: `chat_template_args`, `max_length`, and `seed` of tasks that draw.
          max_length: tokens of the longest context, where the settings name none;
            longer ones are cut on the left.
        """
        super().__init__()
        self.tokenizer, self._template = tokenizer.hf, tokenizer.template_arguments
        self._panel = panel
        self._name = name
        self._settings = settings
        self._max_length = settings.max_length or max_length
        self.eot_token_id, bos_id = tokenizer.eos_id, tokenizer.bos_id
        self.prefix_token_id = self.eot_token_id if bos_id is None else bos_id
        self._special = {  # text -> id of tokens that decoding leaves out
            token.content: number
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.special
        }

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; a beginning-of-sequence token is never put in front twice."""
        if add_special_tokens is None:
            if not string.startswith(self.tokenizer.decode(self.prefix_token_id)):
                return self.tokenizer.encode(string)
            add_special_tokens = False
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as text; where the template has no system role, without its message.

        Args:
          chat_history: messages.
          add_generation_prompt: False where the last message is the reply's beginning.
        """
        arguments = {**self._template(), **self._settings.chat_template_args}

        def render(messages: list[dict[str, str]]) -> str:
            return self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **arguments,
            )

        try:
            return render(chat_history)
        except jinja2.TemplateError:
            return render([m for m in chat_history if m["role"] != "system"])

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of whole texts, in windows that do not overlap."""
        texts = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._max_length,
                context_len=1,
            )
            texts.append([(None, *make_disjoint_window(w)) for w in windows])
        scores = iter(self._loglikelihood_tokens([w for text in texts for w in text]))
        return [sum(next(scores)[0] for _ in text) for text in texts]

    def generate_until(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[str]:
        """Replies, up to where each request says that they end.

        Raises:
          BadInputError: a request asks for something that the engine does not do.
        """
        questions, stops = [], []
        eos = self.tokenizer.decode(self.eot_token_id)
        for number, request in enumerate(requests):
            prompt, settings = request.args
            settings = dict(normalize_gen_kwargs(settings, _MAX_GEN_TOKS))
            stops.append(handle_stop_sequences(settings.pop("until"), eos=eos))
            texts = [stop for stop in stops[-1] if stop and stop not in self._special]
            limits = Limits(settings.pop("max_gen_toks"), tuple(texts))
            room = self._max_length - limits.max_new_tokens
            if room < 1:
                raise BadInputError(
                    f"language: task {request.task_name} asks for replies of "
                    f"{limits.max_new_tokens} tokens, which leave no room for a prompt "
                    f"in max_length, {self._max_length}."
                )
            tokens = self.tok_encode(prompt)[-room:] or [self.prefix_token_id]
            seed = (self._settings.seed * 1_000_003 + number) % 2**32
            sampling = _sampling(request.task_name, settings, seed)
            questions.append(Question(tuple(tokens), None, limits, sampling))
        answers = self._panel.answers(questions, self._name)
        return [self._text(*pair) for pair in zip(answers, stops, strict=True)]

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        questions = []
        for _, context, continuation in requests:
            tokens = (context + continuation)[-(self._max_length + 1) :]
            questions.append(Question(tuple(tokens), len(tokens) - len(continuation)))
        answers = self._panel.answers(questions, self._name)
        return [(answer.logprob, answer.is_greedy) for answer in answers]

    def _text(self, reply: Generation, until: list[str]) -> str:
        """A reply's text, cut as the `hf` model cuts it."""
        tokens = list(reply.tokens)
        # Decoded text does not show special tokens, but a task may stop at one.
        ids = {self._special[stop] for stop in until if stop in self._special}
        end = next((i for i, token in enumerate(tokens) if token in ids), len(tokens))
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return postprocess_generated_text(text, until, None)


def _sampling(task: str, settings: dict[str, Any], seed: int) -> Sampling:
    """The sampling that a request asks for.

    Raises:
      BadInputError: it asks for something that the engine does not do.
    """
    draws = settings.pop("do_sample")
    temperature = settings.pop("temperature", float(draws))
    top_k, top_p = settings.pop("top_k", _TOP_K), settings.pop("top_p", 1.0)
    for name, value in settings.items():
        if _NEUTRAL.get(name) != value:
            raise BadInputError(
                f"language: task {task} asks for {name}={value!r} in "
                "generation_kwargs; expected until, max_gen_toks, do_sample, "
                "temperature, top_k and top_p."
            )
    if not draws or not temperature:
        return Sampling()
    return Sampling(float(temperature), int(top_k), float(top_p), seed)
