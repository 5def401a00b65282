"""The training loop: what it sees, that it learns, that it repeats."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cycleqd_jax.config_training import OptimiserConfig
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.models.llama import LlamaProgram
from cycleqd_jax.training import lora
from cycleqd_jax.training.examples import Example, batches, examples_of
from cycleqd_jax.training.sft import train_lora

SETTINGS = lora.LoraSettings(rank=4, alpha=8.0, targets=("q_proj", "up_proj"))
OPTIMISER = OptimiserConfig(
    learning_rate=0.03, warmup_steps=3, steps=40, batch_size=4, max_length=16
)


class WordTokenizer:
    """Token ids written out; 2 ends a turn; the template writes it and one more."""

    stop_ids = (2, 5)
    eos_id = 5

    def encode(self, text):
        return [int(word, 36) for word in text.split()]

    def encode_chat(self, messages, add_generation_prompt=True):
        ids = []
        for message in messages:
            ids += [1, *self.encode(message["content"]), 2, 9]
        return [*ids, 1] if add_generation_prompt else ids


def test_only_replies_are_learnt_and_each_sees_its_past():
    turns = [("user", "a b"), ("assistant", "c"), ("user", "d"), ("assistant", "e f")]
    dialogue = [{"role": role, "content": text} for role, text in turns]
    first, second = examples_of(dialogue, WordTokenizer())
    assert first == Example((1, 10, 11, 2, 9, 1, 12, 2), prompt_length=6)
    assert second.tokens[second.prompt_length :] == (14, 15, 2)
    assert second.tokens[:6] == first.tokens[:6]
    assert second.prompt_length == 14


def test_targets_are_the_tokens_after_the_positions():
    examples = [Example((1, 2, 3, 4, 5), 2), Example((6, 7, 8), 1)]
    batch = next(batches(examples, batch_size=2, max_length=8, seed=0))
    for row in range(2):
        kept = batch.mask[row] > 0
        tokens, at = batch.tokens[row], batch.positions[row][kept]
        assert (tokens[at + 1] == batch.targets[row][kept]).all()
    assert batch.mask.sum() == 3 + 2


def test_every_epoch_has_every_example_once():
    examples = [Example((i, i + 1), 1) for i in range(6)]
    stream = batches(examples, batch_size=4, max_length=4, seed=1)
    seen = [b.tokens[:, 0].tolist() for b in itertools.islice(stream, 3)]
    flat = [token for row in seen for token in row]
    assert sorted(flat[:6]) == sorted(flat[6:12]) == list(range(6))
    assert flat[:6] != flat[6:12]


@pytest.mark.parametrize(
    ("examples", "word"),
    [([], "problems.train"), ([Example(tuple(range(9)), 4)], "optimiser.max_length")],
)
def test_impossible_examples_are_refused(examples, word):
    with pytest.raises(BadInputError, match=word):
        next(batches(examples, batch_size=1, max_length=8, seed=0))


@pytest.fixture(scope="module")
def world(tiny_config):
    program = LlamaProgram(tiny_config)
    shapes = program.weight_shapes()
    keys = jax.random.split(jax.random.key(0), len(shapes))
    weights = {
        name: 0.3 * jax.random.normal(key, shape.shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    rng = np.random.default_rng(0)
    examples = [
        Example((*rng.integers(3, 160, 6).tolist(), 42, 43), 6) for _ in "12345678"
    ]
    return program, weights, examples


def train(world, **changes):
    program, weights, examples = world
    optimiser = OPTIMISER.model_copy(update=changes)
    return train_lora(
        program,
        weights,
        examples,
        jax.random.key(3),
        settings=SETTINGS,
        optimiser=optimiser,
    )


def test_it_learns_and_repeats_bit_for_bit(world):
    first, second = train(world), train(world)
    assert first.history[0].token_accuracy == 0.0
    assert first.history[-1].token_accuracy == 1.0
    assert first.history[-1].loss < first.history[0].loss - 2.0
    assert first.history == second.history
    for a, b in zip(
        jax.tree.leaves(first.factors), jax.tree.leaves(second.factors), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_loss_that_is_no_number_stops_the_training(world):
    program, weights, examples = world
    broken = (program, weights | {"model.norm.weight": jnp.full(32, np.nan)}, examples)
    with pytest.raises(RunError, match="learning_rate"):
        train(broken)
