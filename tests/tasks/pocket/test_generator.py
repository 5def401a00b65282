"""Splits that share nothing and do not move."""

import collections
import dataclasses
import hashlib
import os
import subprocess
import sys

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.pocket import generator
from cycleqd_jax.tasks.registry import BUILT_IN

STUDY = {Split.TRAIN: 600, Split.OPTIMISE: 96, Split.VALIDATE: 256, Split.TEST: 256}


def held_out(task) -> set[str]:
    return {t.id for t in task.templates if t.held_out}


def templates_in(task, split) -> collections.Counter:
    return collections.Counter(p.data["template"] for p in task.problems(split))


def test_template_ids_are_unique_and_many_are_held_out(task):
    ids = [t.id for t in task.templates]
    assert len(ids) == len(set(ids)) <= 64
    assert len(held_out(task)) >= 20
    assert len(ids) - len(held_out(task)) >= (32 if "hard" in task.name else 41)


# Trained experts are compared across versions, so what they learn from stays the same.
TRAIN_OF_SEED_0 = {
    "pocket_coding": "dffec0e8d62a6d9ba2d1696559f8dc488a628f222490c27aa44a10ac4bbd0914",
    "pocket_db": "aef8f183708f28ffab5ab9fb2fba5c26a18d8dbbb5b56d240b6eacb72b34f6f1",
    "pocket_os": "aa9a52757040e37414554260840c8f59c57fbebe48f11f67e6bac0f56f9b4b11",
}


@pytest.mark.parametrize("name", TRAIN_OF_SEED_0)
def test_the_plain_train_problems_do_not_change(name):
    problems = BUILT_IN[name](TaskSettings(0, {Split.TRAIN: 600})).problems(Split.TRAIN)
    rows = [(p.id, p.prompt, p.answer, dict(p.data)) for p in problems]
    assert hashlib.sha256(repr(rows).encode()).hexdigest() == TRAIN_OF_SEED_0[name]


def test_a_problem_tells_whether_its_template_is_held_out(task):
    problems = task.problems(Split.TEST)
    assert {p.data["template"] for p in problems if task.is_held_out(p)} == held_out(
        task
    )
    assert not any(map(task.is_held_out, task.problems(Split.TRAIN)))


def test_splits_share_no_prompt_and_no_answer(task):
    seen = collections.defaultdict(set)
    for split in Split:
        for problem in task.problems(split):
            seen[problem.prompt].add(split)
            seen[problem.answer].add(split)
    assert all(len(splits) == 1 for splits in seen.values())


def test_ids_are_unique_and_name_the_place(task):
    ids = [p.id for split in Split for p in task.problems(split)]
    assert len(set(ids)) == len(ids)
    assert task.problems(Split.TEST)[5].id == f"{task.name}/test/5"


def test_prompts_within_a_split_are_distinct(task):
    for split in Split:
        prompts = [p.prompt for p in task.problems(split)]
        assert len(set(prompts)) == len(prompts)


def test_held_out_templates_are_only_absent_from_train(task):
    assert not held_out(task) & templates_in(task, Split.TRAIN).keys()
    for split in (Split.OPTIMISE, Split.VALIDATE, Split.TEST):
        assert held_out(task) <= templates_in(task, split).keys()


def test_every_split_visits_its_templates_evenly(task):
    assert len(templates_in(task, Split.OPTIMISE)) == len(task.templates)
    assert set(templates_in(task, Split.TEST).values()) <= {2, 3}
    first = [p.data["template"] for p in task.problems(Split.TEST)[:24]]
    assert len(set(first)) == 24


def test_sizes_change_neither_other_splits_nor_the_beginning(task):
    shorter = type(task)(TaskSettings(0, {Split.TEST: 30, Split.TRAIN: 7}))
    for split, size in ((Split.TEST, 30), (Split.TRAIN, 7), (Split.VALIDATE, 0)):
        assert shorter.problems(split) == task.problems(split)[:size]


def test_another_seed_gives_other_problems(task):
    other = type(task)(TaskSettings(1, {Split.TEST: 128}))
    prompts = {p.prompt for p in task.problems(Split.TEST)}
    assert len(prompts & {p.prompt for p in other.problems(Split.TEST)}) < 32


def test_fingerprint_counts_seed_sizes_and_turns(task):
    def fingerprint(seed=0, size=5, turns=1):
        return type(task)(TaskSettings(seed, {Split.TEST: size}, turns)).fingerprint

    different = {fingerprint(), fingerprint(seed=1), fingerprint(size=6)}
    assert len(different | {fingerprint(turns=2)}) == 4
    assert fingerprint() == fingerprint()


def test_problems_do_not_depend_on_the_process(task):
    program = (
        "from cycleqd_jax.tasks.registry import make_task\n"
        "from cycleqd_jax.tasks.base import TaskSettings\n"
        f"settings = TaskSettings(2, {{'train': 20, 'test': 20}})\n"
        f"print(make_task({task.name!r}, settings).fingerprint)"
    )
    here = type(task)(TaskSettings(2, {Split.TRAIN: 20, Split.TEST: 20})).fingerprint
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == here


def test_thousands_of_problems_exist(task):
    large = type(task)(TaskSettings(0, {Split.TRAIN: 1500, Split.TEST: 400}))
    assert len(large.problems(Split.TEST)) == 400
    if "db" not in task.name:  # whose tables take seconds to make
        assert len(large.problems(Split.TRAIN)) == 1500


class WithoutData:
    """A template whose problems have no data, which take most of the time to make."""

    def __init__(self, template):
        self.id, self.held_out, self._draw = (
            template.id,
            template.held_out,
            template.draw,
        )

    def draw(self, rng):
        return dataclasses.replace(self._draw(rng), make_data=lambda rng: {})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_study_finds_enough_problems_of_its_templates(name, seed):
    pool = [WithoutData(t) for t in BUILT_IN[name].templates]
    for split, size in STUDY.items():
        problems = generator.generate(name, pool, seed, split, size)
        found = collections.Counter(p.data["template"] for p in problems)
        wanted = [t for t in pool if split is not Split.TRAIN or not t.held_out]
        assert len(problems) == size
        assert len(found) >= len(wanted) - 1  # one may have no answer in a split
        assert max(found.values()) <= size / len(wanted) + 2


def test_too_many_are_refused_with_the_number_there_is():
    class Two:
        id, held_out = "two", False

        def draw(self, rng):
            word = rng.choice(("one", "two", "three"))
            return generator.Draft(word, word, lambda rng: {})

    in_split = [
        word
        for word in ("one", "two", "three")
        if generator.split_of("t", 0, word) is Split.TRAIN
    ]
    with pytest.raises(BadInputError, match=f"only {len(in_split)} different"):
        generator.generate("t", [Two()], 0, Split.TRAIN, 4)


@pytest.mark.parametrize(
    "settings", [TaskSettings(turns=3), TaskSettings(sizes={Split.TEST: -1})]
)
def test_impossible_settings_are_refused(task, settings):
    with pytest.raises(BadInputError, match=task.name):
        type(task)(settings)
