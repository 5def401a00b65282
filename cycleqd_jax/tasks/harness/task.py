"""A task of lm-evaluation-harness, or all tasks of a group of it, as a `Task`.

A problem is a document of the harness. Its prompt, what is generated or scored, the
filters and the metrics are those of the harness's task object.
"""

import dataclasses
import hashlib
import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from cycleqd_jax.chat import DEFAULT_CHAT, PLAIN, Chat, ChatOptions, Message
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Outcome, Problem, Question, Result, Split
from cycleqd_jax.tasks.harness.load import guarded
from cycleqd_jax.tasks.harness.settings import PromptSettings

_MAX_GEN_TOKS = 256  # the `hf` model's, where a task has no limit of its own
_TOP_K = 50  # the default of transformers, where a task draws
# These settings of generation change nothing at these values.
_NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0}


class HarnessTask:
    """Asks a chat what the harness would ask its model; gives no verdict by itself.

    The `answer` of a result is the JSON of all responses: per request a list of texts,
    of (log-probability, is greedy), or of log-probabilities of whole texts.

    Attributes:
      name: what was asked for.
      max_new_tokens: of the longest reply; 1 where nothing is generated.
    """

    shares_prompts = True

    def __init__(
        self,
        name: str,
        leaves: Mapping[str, Task],
        settings: PromptSettings,
        ids: Mapping[Split, Collection[str]],
        room: int | None = None,
    ):
        """Writes all prompts.

        Args:
          name: of the task.
          leaves: the harness's task objects by name.
          settings: of the prompts.
          ids: of the problems, like "gsm8k/17" for a document that the harness
            evaluates on.
          room: see `ChatOptions`.

        Raises:
          BadInputError: a task asks for something that the engine does not do.
          RunError: a task's own code fails.
        """
        self.name, self.leaves = name, leaves
        self._settings, self._room = settings, room
        # Tasks of the harness may draw from these when they write prompts.
        random.seed(0)
        np.random.seed(settings.seed)
        self._requests: dict[str, list[Instance]] = {}
        with guarded(f"writing the prompts of {name}"):
            for task in leaves.values():
                _set_examples(task, settings)
            for own in ids.values():
                self._requests |= dict(self._write(own))
        self._questions = {
            key: [self._ask(key, request) for request in requests]
            for key, requests in self._requests.items()
        }
        self._problems = {
            split: tuple(Problem(key, self._prompt(key), None) for key in ids[split])
            for split in ids
        }
        limits = [q.options.max_new_tokens or 1 for q in self._all_questions()]
        self.max_new_tokens = max(limits, default=1)

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of one split, in a fixed order."""
        return self._problems.get(split, ())

    def questions(self, problem: Problem) -> list[Question]:
        """All that is asked about a problem."""
        return [one for some in self._questions[problem.id] for one in some]

    def opening(self, problem: Problem) -> Sequence[Message]:
        """The first prompt, without the beginning of its reply."""
        messages = self.questions(problem)[0].messages
        begun = messages and messages[-1]["role"] == "assistant"
        return messages[:-1] if begun else messages

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """Asks everything about a problem, one after the other.

        Raises:
          BadInputError: the chat plays recorded replies, and cannot score.
        """
        responses = await self.responses(problem, chat)
        turns = sum(map(len, responses))
        return Result(Outcome.SCORED, json.dumps(responses), "not judged", turns)

    async def responses(self, problem: Problem, chat: Chat) -> list[list[Any]]:
        """Per request of the harness a list of responses; see the class."""
        found = []
        for request, questions in zip(
            self._requests[problem.id], self._questions[problem.id], strict=True
        ):
            found.append([await self._response(request, q, chat) for q in questions])
        return found

    async def _response(self, request: Instance, question: Question, chat: Chat) -> Any:
        messages, continuation, options = question
        if continuation is None:
            reply = await chat(messages, options)
            stops = list(options.stop_strings)
            return postprocess_generated_text(reply.text, stops, None)
        if not hasattr(chat, "score"):
            raise BadInputError(
                f"Task {self.name} is judged by log-probabilities, which recorded "
                "replies do not have; play again only tasks that generate."
            )
        found = await chat.score(messages, continuation, options)
        rolling = request.request_type == "loglikelihood_rolling"
        return found.logprob if rolling else (found.logprob, found.is_greedy)

    def judge(
        self, key: str, responses: Sequence[list[Any]]
    ) -> dict[tuple[str, str], Any]:
        """The harness's verdict on one problem: (metric, filter) -> value.

        Raises:
          RunError: the task's own code fails.
        """
        task, found = self.leaves[key.rpartition("/")[0]], {}
        requests = [
            dataclasses.replace(
                request,
                resps=[tuple(one) if isinstance(one, list) else one for one in own],
                filtered_resps={},
            )
            for request, own in zip(self._requests[key], responses, strict=True)
        ]
        with guarded(f"the verdict on {key}"):
            for kind in task._filters:
                kind.apply(requests)
                results = [one.filtered_resps[kind.name] for one in requests]
                metrics = task.process_results(requests[0].doc, results)
                found |= {(name, kind.name): metrics[name] for name in metrics}
        return found

    def _all_questions(self) -> Iterator[Question]:
        for requests in self._questions.values():
            for questions in requests:
                yield from questions

    def _prompt(self, key: str) -> str:
        question = self._questions[key][0][0]
        return question.messages[-1]["content"] if question.messages else ""

    def _write(self, ids: Collection[str]) -> Iterator[tuple[str, list[Instance]]]:
        """The harness's requests by problem, of all problems of a split at once."""
        settings = self._settings
        chat = settings.apply_chat_template
        for leaf, task in self.leaves.items():
            own = [key.rpartition("/") for key in ids]
            chosen = sorted(int(i) for name, _, i in own if name == leaf)
            if not chosen:
                continue
            task.set_fewshot_seed(seed=settings.seed)
            task.build_all_requests(
                samples=dict.fromkeys(chosen),
                system_instruction=settings.system_instruction,
                apply_chat_template=chat,
                fewshot_as_multiturn=settings.fewshot_as_multiturn,
                chat_template=_as_messages if chat else None,
            )
            by_doc: dict[int, list[Instance]] = {}
            for request in task.instances:
                by_doc.setdefault(chosen[request.doc_id], []).append(request)
            for doc, requests in by_doc.items():
                yield f"{leaf}/{doc}", sorted(requests, key=lambda one: one.idx)

    def _ask(self, key: str, request: Instance) -> list[Question]:
        """A request as questions: one per repeat of a reply, else one."""
        if request.request_type == "loglikelihood_rolling":
            options = dataclasses.replace(DEFAULT_CHAT, room=self._room)
            return [Question((), request.args[0], options)]
        context, given = request.args[:2]
        plain = isinstance(context, str)
        options = ChatOptions(
            template=PLAIN if plain else None, room=self._room, system_optional=True
        )
        messages = ({"role": "user", "content": context},) if plain else context
        if request.request_type == "loglikelihood":
            return [Question(messages, given, options)]
        return [
            Question(messages, None, self._reply_options(key, request, options, number))
            for number in range(request.repeats or 1)
        ]

    def _reply_options(
        self, key: str, request: Instance, options: ChatOptions, number: int
    ) -> ChatOptions:
        """The end of a reply, and the way it is drawn.

        Raises:
          BadInputError: the request asks for something that the engine does not do.
        """
        settings = dict(normalize_gen_kwargs(request.args[1], _MAX_GEN_TOKS))
        limit, until = settings.pop("max_gen_toks"), settings.pop("until")
        draws = settings.pop("do_sample")
        temperature = settings.pop("temperature", float(draws))
        top_k, top_p = settings.pop("top_k", _TOP_K), settings.pop("top_p", 1.0)
        where = f"tasks: {key.rpartition('/')[0]} asks for"
        for name, value in settings.items():
            if _NEUTRAL.get(name) != value:
                raise BadInputError(
                    f"{where} {name}={value!r} in generation_kwargs; expected until, "
                    "max_gen_toks, do_sample, temperature, top_k and top_p."
                )
        if self._room is not None and limit >= self._room:
            raise BadInputError(
                f"{where} replies of {limit} tokens, which leave no room for a prompt "
                f"in max_length, {self._room}."
            )
        own = {"max_new_tokens": limit, "stop_strings": tuple(s for s in until if s)}
        if draws and temperature:
            text = f"{self._settings.seed}/{key}/{number}"
            seed = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
            own |= {"temperature": float(temperature), "seed": seed}
            own |= {"top_k": int(top_k), "top_p": float(top_p)}
        return dataclasses.replace(options, **own)


def _as_messages(
    messages: Sequence[Message], add_generation_prompt: bool = True
) -> tuple[Message, ...]:
    """A chat template for the harness: what it would write as text stays a chat."""
    return tuple(messages)


def _set_examples(task: Task, settings: PromptSettings) -> None:
    """Sets the number of examples in front of each problem, as the harness does."""
    examples = task.get_config("num_fewshot")
    if settings.num_fewshot is not None and examples != 0:
        examples = settings.num_fewshot
    task.set_config(key="num_fewshot", value=examples or 0)


def metric_name(metric: str, kind: str) -> str:
    """A metric under a filter, like "exact_match[strict]"; "none" is no filter."""
    return metric if kind == "none" else f"{metric}[{kind}]"
