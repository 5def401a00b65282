"""The inputs that condition the basis of a run: `train` conversations as tokens."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import (
    EMBEDDING,
    HEAD,
    CausalLM,
    ModelConfig,
    TokenBatch,
    Weights,
)
from cycleqd_jax.models.dialogues import examples_of, turn_end
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.runs.memory import Machine, size_text
from cycleqd_jax.tasks.base import Split, Task, reference

_ROWS = 8  # sequences of a batch
_STEP = 32  # the tokens per row of a batch are a multiple of this


@dataclasses.dataclass(frozen=True)
class TrainInputs:
    """The sequences whose inputs condition the basis, by task.

    Attributes:
      sequences: task -> token ids of prompts with their answers.
      experts: expert -> the task whose sequences are its own, in the order of genomes.
    """

    sequences: Mapping[str, Sequence[tuple[int, ...]]]
    experts: Mapping[str, str]

    @property
    def tokens(self) -> int:
        """The tokens that go through the model, all tasks together."""
        return sum(len(one) for many in self.sequences.values() for one in many)

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) of all experts' token ids."""
        arrays = {
            f"{expert} {i}": np.asarray(ids, "<i4")
            for expert, task in self.experts.items()
            for i, ids in enumerate(self.sequences[task])
        }
        return files.hash_arrays(arrays, {})

    def grams(
        self, program: CausalLM, weights: Weights
    ) -> Iterator[dict[str, list[np.ndarray]]]:
        """Gram matrices per token; the argument `layers` of `compute_basis`.

        Args:
          program: the base model's.
          weights: its weights, on the host or the device.
        """
        longest = max(len(one) for many in self.sequences.values() for one in many)
        width = math.ceil(longest / _STEP) * _STEP
        groups = [_batches(many, width) for many in self.sequences.values()]
        counts = [sum(map(len, many)) for many in self.sequences.values()]
        place = {task: k for k, task in enumerate(self.sequences)}
        for layer in program.input_grams(weights, groups):
            found = {}
            for name, grams in layer.items():
                pairs = zip(grams, counts, strict=True)
                means = [np.asarray(gram) / count for gram, count in pairs]
                found[name] = [means[place[task]] for task in self.experts.values()]
            yield found


def train_inputs(
    config: RunConfig, tasks: Sequence[Task], tokenizer: ChatTokenizer
) -> TrainInputs | None:
    """The sequences that `basis.conditioning: regmean` needs; None for any other.

    An expert has the inputs of its task, or of the one in `basis.conditioning_tasks`; a
    task without experts gives none.

    Raises:
      BadInputError: an expert has no task or several, or its task has no `train`
        problem with a known answer.
    """
    if config.basis.conditioning != "regmean":
        if config.basis.conditioning_tasks:
            raise BadInputError(
                "basis.conditioning_tasks says whose problems condition an expert, but "
                f"basis.conditioning is {config.basis.conditioning}; set that to "
                "regmean, or leave basis.conditioning_tasks out."
            )
        return None
    of_expert = _tasks_of_experts(config, [task.name for task in tasks])
    end = turn_end(tokenizer)
    sequences = {}
    for task in tasks:
        if task.name not in of_expert.values():
            continue
        problems = task.problems(Split.TRAIN)[: config.basis.conditioning_problems]
        known = (reference(task, problem) for problem in problems)
        sequences[task.name] = [
            example.tokens
            for dialogue in known
            if dialogue is not None
            for example in examples_of(dialogue, tokenizer, end)
        ]
        if not sequences[task.name]:
            raise BadInputError(
                "basis.conditioning: regmean needs train problems with known answers, "
                f"but task {task.name} has none; set problems.train above 0, or "
                "basis.conditioning to data_free or none."
            )
    return TrainInputs(sequences, of_expert)


def _tasks_of_experts(config: RunConfig, tasks: Sequence[str]) -> dict[str, str]:
    """Expert -> the task whose problems give its inputs, in the order of genomes.

    Raises:
      BadInputError: an expert has no task or several, or a name is unknown.
    """
    experts, given = config.name_experts(tasks), config.basis.conditioning_tasks
    for expert, task in given.items():
        name = f"basis.conditioning_tasks.{expert}"
        if expert not in experts:
            raise BadInputError(
                f"{name}: there is no such expert; expected one of "
                f"{', '.join(experts)}."
            )
        if expert in tasks:
            raise BadInputError(
                f"{name}: this expert has the problems of its own task; leave it out."
            )
        if task not in tasks:
            raise BadInputError(
                f"{name} is {task}; expected one of the tasks {', '.join(tasks)}."
            )
    for expert in experts:
        if expert not in tasks and expert not in given:
            raise BadInputError(
                "basis.conditioning: regmean needs train problems of every expert, but "
                f"{expert} belongs to no task; name one in basis.conditioning_tasks, "
                "like {" + f"{expert}: {tasks[0]}" + "}, or set "
                "basis.conditioning to data_free or none."
            )
    return {expert: given.get(expert, expert) for expert in experts}


class GramBytes(NamedTuple):
    """The memory that conditioning takes, before anything is evaluated.

    Attributes:
      device: the matrices of one decoder layer, in float32.
      host: those of one weight, in float64, with their sum and its factor.
    """

    device: int
    host: int


def gram_bytes(config: RunConfig, model: ModelConfig) -> GramBytes:
    """The memory of the Gram matrices; zeros without conditioning."""
    if config.basis.conditioning == "none":
        return GramBytes(0, 0)
    inputs = [
        shape[1]
        for name, shape in model.weight_shapes().items()
        if len(shape) == 2 and name not in (EMBEDDING, HEAD)
    ]
    experts = len(config.expert_paths)
    on_host = 8 * (experts + 2) * max(inputs) ** 2
    if config.basis.conditioning == "data_free":
        return GramBytes(0, on_host)
    squares = sum(size**2 for size in inputs) // model.num_hidden_layers
    return GramBytes(4 * (experts + 1) * squares, on_host)  # and of a further batch


def check_gram_memory(config: RunConfig, model: ModelConfig, machine: Machine) -> None:
    """Refuses Gram matrices that the machine has no room for.

    Raises:
      BadInputError: names what they need and what there is.
    """
    device, host = gram_bytes(config, model)
    if machine.device_bytes is None:
        needs = [("this machine", host + device, machine.host_bytes)]
    else:
        needs = [
            ("this machine", host, machine.host_bytes),
            ("the accelerator", device, machine.device_bytes),
        ]
    for place, need, has in needs:
        if need > has:
            raise BadInputError(
                "basis.conditioning: the Gram matrices of one layer need "
                f"{size_text(need)}, but {place} has {size_text(has)}; set it to none, "
                "or use a machine with more."
            )


def _batches(sequences: Sequence[tuple[int, ...]], width: int) -> list[TokenBatch]:
    """Batches of `_ROWS` rows and `width` tokens; the last may have empty rows."""
    batches = []
    for first in range(0, len(sequences), _ROWS):
        tokens = np.zeros((_ROWS, width), np.int32)
        lengths = np.zeros(_ROWS, np.int32)
        for row, ids in enumerate(sequences[first : first + _ROWS]):
            tokens[row, : len(ids)], lengths[row] = ids, len(ids)
        batches.append(TokenBatch(jax.device_put(tokens), jax.device_put(lengths)))
    return batches
